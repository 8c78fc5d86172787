// Package api holds the local interfaces between the processes of one
// appliance: gRPC services on Unix sockets, described in the .proto files here.
//
//	vault.proto      secrets sealed by the TPM; for the messenger and the node
//	messenger.proto  conversations; for the panel, the console and programs
//	node.proto       how the service node does; for the panel and the console
//	device.proto     what PID 1 runs, its log, power; for the panel and the console
//
// A server is made with [NewServer], listens on [Listen] and names the user ids
// that may call it; a client comes in through [Dial]. Who calls is not claimed
// by the caller but told by the kernel (SO_PEERCRED); a service that serves
// several users asks for the caller's user id with [CallerOf].
//
//	l, err := api.Listen("/run/hearth/vault.sock", api.UIDMessenger, api.UIDNode)
//	s := api.NewServer(api.UIDMessenger, api.UIDNode)
//	api.RegisterVaultServer(s, v)
//	err = s.Serve(l)
//
// The generated files are remade with "go generate ./node/api"; that needs
// protoc (Debian package protobuf-compiler), its plugins are tools of this module.
package api

//go:generate sh -c "protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative vault.proto messenger.proto node.proto device.proto"
