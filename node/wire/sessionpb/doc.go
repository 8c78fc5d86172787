// Package sessionpb holds the protocol buffers that Session clients exchange,
// generated from session.proto. Package wire fills and reads them; everything
// above it handles a [Content].
package sessionpb

//go:generate sh -c "protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --go_out=. --go_opt=paths=source_relative session.proto"
