package main

import (
	"net"
	"syscall"
	"time"
)

// handler is a socket's owner: the loop calls ready when there is something to read, or when
// the connect under way has ended.
type handler interface {
	ready()
}

// loop is an epoll set and the handlers of its sockets, by file descriptor.
type loop struct {
	epoll    int
	handlers []handler
	events   [512]syscall.EpollEvent
	buffer   [256 << 10]byte // what the handler that runs has just read; valid until the next read
}

func newLoop() *loop {
	epoll, err := syscall.EpollCreate1(0)
	must(err, "epoll")
	return &loop{epoll: epoll}
}

func (l *loop) control(operation, fd int, events uint32) {
	event := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	must(syscall.EpollCtl(l.epoll, operation, fd, &event), "epoll")
}

func (l *loop) add(fd int, events uint32, h handler) {
	for len(l.handlers) <= fd {
		l.handlers = append(l.handlers, nil)
	}
	l.handlers[fd] = h
	l.control(syscall.EPOLL_CTL_ADD, fd, events)
}

// drop closes a socket; the kernel takes it out of the epoll set.
func (l *loop) drop(fd int) {
	l.handlers[fd] = nil
	syscall.Close(fd)
}

// turn waits for events, at most the given time, and hands each to its handler; true where more
// may wait than one turn takes.
func (l *loop) turn(wait time.Duration) (more bool) {
	count, err := syscall.EpollWait(l.epoll, l.events[:], int(wait.Milliseconds()))
	if err == syscall.EINTR {
		return false
	}
	must(err, "epoll")
	for i := range l.events[:count] {
		// A handler may have dropped another one's socket in this same turn.
		if h := l.handlers[l.events[i].Fd]; h != nil {
			h.ready()
		}
	}
	return count == len(l.events)
}

// read returns what a socket has, at most the size of the shared buffer: nil and true where it
// has nothing just now, nil and false at its end.
func (l *loop) read(fd int) ([]byte, bool) {
	n, err := syscall.Read(fd, l.buffer[:])
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return nil, true
	}
	if err != nil || n == 0 {
		return nil, false
	}
	return l.buffer[:n], true
}

// write sends all of data and tells whether that worked. What is sent here always fits an empty
// socket buffer (one message in flight per connection), so a short write counts as a failure.
func write(fd int, data []byte) bool {
	n, err := syscall.Write(fd, data)
	return err == nil && n == len(data)
}

func newSocket() int {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	must(err, "socket")
	must(syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1), "TCP_NODELAY")
	return fd
}

// parseAddress takes "127.0.0.1:7880"; anything that is not IPv4 loopback is refused.
func parseAddress(text string) *syscall.SockaddrInet4 {
	tcp, err := net.ResolveTCPAddr("tcp4", text)
	must(err, "address "+text)
	if !tcp.IP.IsLoopback() {
		fail("address " + text + " is not on loopback")
	}
	address := &syscall.SockaddrInet4{Port: tcp.Port}
	copy(address.Addr[:], tcp.IP.To4())
	return address
}
