package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// gatewayDialer makes a dialer that reaches a range of addresses through another
// address, on the same port. It is for a guest of an emulator: the developer's
// network lives on the host's loopback, 127.0.0.0/8, which a guest cannot reach,
// while QEMU's user network shows the host's own loopback as 10.0.2.2.
//
// spec is a list PREFIX=ADDRESS, separated by commas, for example
// "127.0.0.0/8=10.0.2.2". The first prefix that holds a literal address wins;
// names and all other addresses are dialled as they are. An empty spec is a
// plain dialer.
func gatewayDialer(spec string) (func(ctx context.Context, network, addr string) (net.Conn, error), error) {
	rules, err := parseGateway(spec)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, rules.apply(addr))
	}, nil
}

type gatewayRules []struct {
	prefix netip.Prefix
	via    netip.Addr
}

func parseGateway(spec string) (gatewayRules, error) {
	var rules gatewayRules
	if spec == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(spec, ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok {
			return nil, fmt.Errorf("gateway %q: want PREFIX=ADDRESS, such as 127.0.0.0/8=10.0.2.2", item)
		}
		prefix, err := netip.ParsePrefix(from)
		if err != nil {
			return nil, fmt.Errorf("gateway %q: %w", item, err)
		}
		via, err := netip.ParseAddr(to)
		if err != nil {
			return nil, fmt.Errorf("gateway %q: %w", item, err)
		}
		rules = append(rules, struct {
			prefix netip.Prefix
			via    netip.Addr
		}{prefix.Masked(), via})
	}
	return rules, nil
}

// apply returns the address to dial in place of addr.
func (rules gatewayRules) apply(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return addr
	}
	for _, rule := range rules {
		if rule.prefix.Contains(ip.Unmap()) {
			return net.JoinHostPort(rule.via.String(), port)
		}
	}
	return addr
}
