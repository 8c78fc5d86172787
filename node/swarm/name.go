package swarm

// Name is the node's name in the network: its key in the z-base-32 alphabet and
// ".snode".
func (n Node) Name() string { return base32z(n.Ed25519[:]) + ".snode" }

// base32z writes bytes in the z-base-32 alphabet, without padding.
func base32z(b []byte) string {
	const alphabet = "ybndrfg8ejkmcpqxot1uwisza345h769"
	out := make([]byte, 0, (len(b)*8+4)/5)
	var bits uint
	var have int
	for _, x := range b {
		bits = bits<<8 | uint(x)
		for have += 8; have >= 5; have -= 5 {
			out = append(out, alphabet[bits>>(have-5)&31])
		}
	}
	if have > 0 {
		out = append(out, alphabet[bits<<(5-have)&31])
	}
	return string(out)
}
