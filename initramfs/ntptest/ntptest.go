// Package ntptest is a time server for tests and for the emulated appliance, which
// may have no way to one in the world.
//
//	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
//	go ntptest.Serve(conn, time.Now) // until conn is closed
package ntptest

import (
	"encoding/binary"
	"net"
	"time"
)

// The first 48 bytes of a packet, as RFC 5905 has them.
const (
	size       = 48
	stratumAt  = 1
	rootAt     = 12 // name of the reference
	setAt      = 16 // when its clock was set last
	originAt   = 24 // of the question: when it was sent
	receivedAt = 32
	sentAt     = 40

	server  = 4<<3 | 4 // version 4, mode "server"
	stratum = 2
)

// Serve answers every question with the time of now, until the connection is closed;
// it returns the error of that.
func Serve(conn net.PacketConn, now func() time.Time) error {
	question := make([]byte, 512)
	for {
		n, from, err := conn.ReadFrom(question)
		if err != nil {
			return err
		}
		if n < size {
			continue
		}
		t := stamp(now())
		answer := make([]byte, size)
		answer[0], answer[stratumAt] = server, stratum
		copy(answer[rootAt:], "TEST")
		binary.BigEndian.PutUint64(answer[setAt:], t)
		copy(answer[originAt:receivedAt], question[sentAt:size])
		binary.BigEndian.PutUint64(answer[receivedAt:], t)
		binary.BigEndian.PutUint64(answer[sentAt:], t)
		if _, err := conn.WriteTo(answer, from); err != nil {
			continue // who asked is gone
		}
	}
}

// stamp is a time in the protocol's form: seconds since 1900 and a fraction.
func stamp(t time.Time) uint64 {
	const from1900to1970 = 2_208_988_800
	return uint64(t.Unix()+from1900to1970)<<32 | uint64(t.Nanosecond())<<32/1_000_000_000
}
