# The two commands of this project, and the parts they are made of. Everything is
# a Go program under build/cmd; this file only gives them short names.

# BOARD=amd64 is QEMU's standard PC with the distribution's kernel,
# BOARD=virt-arm64 its ARM board with our own kernel, BOARD=raspi3b a Raspberry Pi 3
# that starts from the SD card of `make image`.
BOARD ?= amd64

.PHONY: run test deps image devnet bench

# Everything at once: a network of nine nodes, a friend who answers, the appliance
# in an emulator, its panel on a web page, its serial console in this terminal.
# RUN="-fresh" forgets the account of earlier runs; see go run ./build/cmd/run -help.
run:
	@CGO_ENABLED=0 go run ./build/cmd/run -board $(BOARD) $(RUN)

# Everything that can be checked on one machine; the boots at the end emulate both
# boards, one at a time, and go through a person's first day.
test: deps
	@echo "== format and vet"
	@bad=$$(gofmt -l build firmware hw initramfs node ui); test -z "$$bad" || { echo "not gofmt'ed: $$bad"; exit 1; }
	CGO_ENABLED=0 go vet ./...
	CGO_ENABLED=0 go vet -tags boot ./build/...
	@echo "== tests"
	CGO_ENABLED=0 go test -timeout 30m ./...
	@echo "== boots"
	CGO_ENABLED=0 go test -p 1 -tags boot -count=1 -timeout 60m -v -run 'TestTheApplianceStarts|TestFirstLight|TestTheApplianceTakesPart|TestCells|TestSDCard|TestTwoCheckouts' ./build/emulator ./build/lab ./build/sdcard

# The figures of the README.
bench:
	CGO_ENABLED=0 go test -run '^$$' -bench . -benchmem ./node/... ./hw/... ./build/devnet

# A network of service nodes on loopback, without an appliance.
devnet:
	@CGO_ENABLED=0 go run ./build/cmd/devnet

# Install the Debian or Ubuntu packages that everything else needs.
deps:
	@go run ./build/cmd/deps

# Make the image of an SD card for a Raspberry Pi, and say where it is and how to
# write it to a card. With BOARD=amd64 or BOARD=virt-arm64: kernel and initramfs.
image: deps
	@go run ./build/cmd/image -target $(if $(filter file,$(origin BOARD)),pi,$(BOARD))
