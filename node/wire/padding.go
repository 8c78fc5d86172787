package wire

// paddingBlock is the step of padded sizes in bytes. It hides the length of
// short messages from those who store them.
const paddingBlock = 160

// Pad appends 0x80 and zero bytes up to a multiple of 160. As in libsession a
// whole block is added when message and 0x80 already fill one.
func Pad(message []byte) []byte {
	size := len(message) + 1
	padded := make([]byte, size+paddingBlock-size%paddingBlock)
	copy(padded, message)
	padded[len(message)] = 0x80
	return padded
}

// Unpad removes zero bytes from the end and the 0x80 before them, for any total
// length, so that it also reads older clients' blocks of 160k-1 bytes. Without
// 0x80 in that place it returns padded unchanged, as Session clients do. The
// result shares memory with padded.
func Unpad(padded []byte) []byte {
	for i := len(padded) - 1; i >= 0; i-- {
		switch padded[i] {
		case 0:
		case 0x80:
			return padded[:i]
		default:
			return padded
		}
	}
	return padded
}
