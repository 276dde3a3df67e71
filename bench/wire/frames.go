package main

import "encoding/binary"

// WebSocket opcodes, RFC 6455 section 5.2.
const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// frame is one whole WebSocket frame; payload is a part of the buffer it was read from.
type frame struct {
	opcode  byte
	mask    []byte // four bytes, or none
	payload []byte
}

// nextFrame takes the first frame off data. Where data ends before the frame does, size is 0.
func nextFrame(data []byte) (f frame, size int) {
	if len(data) < 2 {
		return f, 0
	}
	length, head := uint64(data[1]&127), 2
	switch length {
	case 126:
		if len(data) < 4 {
			return f, 0
		}
		length, head = uint64(binary.BigEndian.Uint16(data[2:])), 4
	case 127:
		if len(data) < 10 {
			return f, 0
		}
		length, head = binary.BigEndian.Uint64(data[2:]), 10
	}
	masked := data[1]&128 != 0
	if masked {
		head += 4
	}
	if uint64(len(data)) < uint64(head)+length {
		return f, 0
	}
	size = head + int(length)
	f = frame{opcode: data[0] & 15, payload: data[head:size]}
	if masked {
		f.mask = data[head-4 : head]
	}
	return f, size
}

// makeFrame makes a final frame. Clients mask (RFC 6455 section 5.3), servers do not.
func makeFrame(opcode byte, mask []byte, payload []byte) []byte {
	made := []byte{0x80 | opcode}
	switch {
	case len(payload) < 126:
		made = append(made, byte(len(payload)))
	case len(payload) < 1<<16:
		made = append(made, 126)
		made = binary.BigEndian.AppendUint16(made, uint16(len(payload)))
	default:
		made = append(made, 127)
		made = binary.BigEndian.AppendUint64(made, uint64(len(payload)))
	}
	if mask == nil {
		return append(made, payload...)
	}
	made[1] |= 128
	made = append(made, mask...)
	for i, b := range payload {
		made = append(made, b^mask[i&3])
	}
	return made
}

// sameText tells whether a client's frame holds this text, without unmasking it in place.
func (f frame) sameText(text []byte) bool {
	if len(f.payload) != len(text) || f.mask == nil {
		return false
	}
	for i, b := range f.payload {
		if b^f.mask[i&3] != text[i] {
			return false
		}
	}
	return true
}

// inbox puts together what the socket's reads cut apart. Most reads end where a message ends, so
// nothing is copied then.
type inbox struct {
	rest []byte
}

// with returns the bytes not yet used, followed by the new ones.
func (b *inbox) with(data []byte) []byte {
	if len(b.rest) == 0 {
		return data
	}
	b.rest = append(b.rest, data...)
	return b.rest
}

// keep remembers what of the bytes that `with` returned is still to be used.
func (b *inbox) keep(data []byte) {
	b.rest = append(b.rest[:0], data...)
}
