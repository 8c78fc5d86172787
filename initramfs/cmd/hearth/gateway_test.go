package main

import (
	"net"
	"testing"
)

func TestGatewayRules(t *testing.T) {
	for _, c := range []struct{ name, spec, addr, want string }{
		{name: "no rule", addr: "127.0.3.1:22103", want: "127.0.3.1:22103"},
		{name: "an address in the range keeps its port", spec: "127.0.0.0/8=10.0.2.2", addr: "127.0.3.1:22103", want: "10.0.2.2:22103"},
		{name: "an address outside", spec: "127.0.0.0/8=10.0.2.2", addr: "192.0.2.1:443", want: "192.0.2.1:443"},
		{name: "a name is left to the resolver", spec: "127.0.0.0/8=10.0.2.2", addr: "localhost:443", want: "localhost:443"},
		{name: "IPv4 in the clothes of IPv6", spec: "127.0.0.0/8=10.0.2.2", addr: "[::ffff:127.0.0.1]:1", want: "10.0.2.2:1"},
		{name: "the first of two rules", spec: "127.0.5.0/24=10.0.2.5, 127.0.0.0/8=10.0.2.2", addr: "127.0.5.9:1", want: "10.0.2.5:1"},
		{name: "the second of two rules", spec: "127.0.5.0/24=10.0.2.5,127.0.0.0/8=10.0.2.2", addr: "127.0.6.9:1", want: "10.0.2.2:1"},
		{name: "a prefix with bits beyond its length", spec: "127.1.2.3/8=10.0.2.2", addr: "127.0.0.1:1", want: "10.0.2.2:1"},
		{name: "no port", spec: "127.0.0.0/8=10.0.2.2", addr: "127.0.0.1", want: "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules, err := parseGateway(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			if got := rules.apply(c.addr); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestAGatewayThatMakesNoSenseIsRefused(t *testing.T) {
	for _, spec := range []string{"127.0.0.0/8", "=", "127.0.0.1=10.0.2.2", "127.0.0.0/8=host", "127.0.0.0/8=10.0.2.2,"} {
		if _, err := gatewayDialer(spec); err == nil {
			t.Errorf("%q was accepted", spec)
		}
	}
}

func TestTheDialerGoesThroughTheGateway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dial, err := gatewayDialer("192.0.2.0/24=127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), "tcp", "192.0.2.77:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != l.Addr().String() {
		t.Errorf("connected to %s, want %s", got, l.Addr())
	}
}
