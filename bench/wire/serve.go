package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The stand-in's orders, one JSON object on standard input.
type serveOrders struct {
	Address string `json:"address"` // port 0: any; the one taken is printed
	Join    []byte `json:"join"`    // SignalResponse{join}, with the placeholders below in it
	Request []byte `json:"request"` // what each client message must be
	Answer  []byte `json:"answer"`  // what answers it
}

// Stand for the participant's and the room's number in `Join`; as long as those, so that no
// length in the protobuf changes.
var (
	participantPlaceholder = []byte("@@@@@@@@")
	roomPlaceholder        = []byte("######")
)

// standIn does what a relay sees of a LiveKit server: it upgrades /rtc, says `join`, answers each
// message with one, and answers what a health probe asks.
type standIn struct {
	loop     *loop
	listener int
	join     []byte // as a frame
	request  []byte
	answer   []byte // as a frame
	pong     []byte
}

func serve() {
	var orders serveOrders
	must(json.NewDecoder(os.Stdin).Decode(&orders), "orders")
	s := &standIn{
		loop:    newLoop(),
		join:    makeFrame(opBinary, nil, orders.Join),
		request: orders.Request,
		answer:  makeFrame(opBinary, nil, orders.Answer),
		pong:    makeFrame(opPong, nil, nil),
	}
	s.listener = newSocket()
	must(syscall.SetsockoptInt(s.listener, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1), "SO_REUSEADDR")
	must(syscall.Bind(s.listener, parseAddress(orders.Address)), "bind "+orders.Address)
	must(syscall.Listen(s.listener, 4096), "listen")
	s.loop.add(s.listener, syscall.EPOLLIN, s)
	name, err := syscall.Getsockname(s.listener)
	must(err, "getsockname")
	fmt.Printf("{\"port\": %d}\n", name.(*syscall.SockaddrInet4).Port)
	for {
		s.loop.turn(time.Second)
	}
}

// ready takes in new connections.
func (s *standIn) ready() {
	for {
		fd, _, err := syscall.Accept4(s.listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		s.loop.add(fd, syscall.EPOLLIN, &visitor{standIn: s, fd: fd})
	}
}

// visitor is one connection to the stand-in.
type visitor struct {
	standIn  *standIn
	fd       int
	in       inbox
	upgraded bool
}

func (v *visitor) ready() {
	data, open := v.standIn.loop.read(v.fd)
	if !open {
		v.standIn.loop.drop(v.fd)
		return
	}
	data = v.in.with(data)
	for len(data) > 0 {
		var size int
		var ok bool
		if v.upgraded {
			size, ok = v.message(data)
		} else {
			size, ok = v.httpRequest(data)
		}
		if !ok {
			v.standIn.loop.drop(v.fd)
			return
		}
		if size == 0 {
			break
		}
		data = data[size:]
	}
	v.in.keep(data)
}

// message answers the first frame of data; size is 0 where it is not whole yet, ok is false when
// the connection is to be closed.
func (v *visitor) message(data []byte) (size int, ok bool) {
	f, size := nextFrame(data)
	if size == 0 {
		return 0, true
	}
	switch f.opcode {
	case opBinary:
		if f.sameText(v.standIn.request) {
			return size, write(v.fd, v.standIn.answer)
		}
		return size, true // a gateway's own goodbye, for one; not answered
	case opPing:
		return size, write(v.fd, v.standIn.pong)
	case opClose:
		write(v.fd, makeFrame(opClose, nil, f.payload[:0]))
		return size, false
	}
	return size, true
}

// httpRequest answers the request at the head of data, as message does a frame.
func (v *visitor) httpRequest(data []byte) (size int, ok bool) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, true
	}
	size = end + 4
	lines := strings.Split(string(data[:end]), "\r\n")
	headers := make(map[string]string, len(lines))
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		headers[strings.ToLower(name)] = strings.TrimSpace(value)
	}
	if length, err := strconv.Atoi(headers["content-length"]); err == nil {
		if len(data) < size+length {
			return 0, true
		}
		size += length
	}
	target := strings.Fields(lines[0])
	if len(target) < 2 {
		return size, false
	}
	switch {
	case headers["sec-websocket-key"] != "" && strings.HasPrefix(target[1], "/rtc"):
		return size, v.upgrade(headers)
	case target[1] == "/":
		return size, v.respond("200 OK", "text/plain", "OK")
	case strings.HasPrefix(target[1], "/twirp/livekit.RoomService/ListRooms"):
		// No rooms: an empty protobuf, or an empty JSON object.
		if strings.HasPrefix(headers["content-type"], "application/json") {
			return size, v.respond("200 OK", "application/json", "{}")
		}
		return size, v.respond("200 OK", "application/protobuf", "")
	}
	return size, v.respond("404 Not Found", "text/plain", "")
}

func (v *visitor) respond(status, kind, body string) bool {
	return write(v.fd, []byte(fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		status, kind, len(body), body)))
}

// upgrade switches to WebSocket (RFC 6455 section 4.2.2) and says `join`, in two writes as a
// LiveKit server does.
func (v *visitor) upgrade(headers map[string]string) bool {
	participant, room, ok := whose(headers["authorization"])
	if !ok {
		return v.respond("401 Unauthorized", "text/plain", "no token")
	}
	v.upgraded = true
	switched := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + acceptKey(headers["sec-websocket-key"]) + "\r\n\r\n"
	if !write(v.fd, []byte(switched)) {
		return false
	}
	join := bytes.ReplaceAll(v.standIn.join, participantPlaceholder, participant)
	return write(v.fd, bytes.ReplaceAll(join, roomPlaceholder, room))
}

// acceptKey is RFC 6455's proof that the upgrade was understood, section 4.2.2 step 5.4.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// whose reads the participant's and the room's number out of a bearer token. The signature is
// not looked at: checking tokens is what the relay before us is measured at.
func whose(authorization string) (participant, room []byte, ok bool) {
	parts := strings.Split(strings.TrimPrefix(authorization, "Bearer "), ".")
	if len(parts) != 3 {
		return nil, nil, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, nil, false
	}
	participant = after(text, identityPrefix, len(participantPlaceholder))
	room = after(text, roomPrefix, len(roomPlaceholder))
	return participant, room, participant != nil && room != nil
}

// after returns the given number of bytes that follow a prefix in text, or nil.
func after(text []byte, prefix string, count int) []byte {
	at := bytes.Index(text, []byte(prefix))
	if at < 0 || at+len(prefix)+count > len(text) {
		return nil
	}
	return text[at+len(prefix) : at+len(prefix)+count]
}
