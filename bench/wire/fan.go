package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"
)

// The orders of a fan, one JSON object on standard input.
type fanOrders struct {
	Redis   string `json:"redis"` // address of the Redis to subscribe at
	Channel string `json:"channel"`
	Hello   []byte `json:"hello"` // what each new connection is told
}

// fan is the least that brings a message from Redis to many: it subscribes to a channel and
// writes what is published there to every connection that it has.
type fan struct {
	loop     *loop
	listener int
	hello    []byte
	members  []int
}

func fanOut() {
	var orders fanOrders
	must(json.NewDecoder(os.Stdin).Decode(&orders), "orders")
	f := &fan{loop: newLoop(), hello: orders.Hello}
	f.listener = newSocket()
	must(syscall.Bind(f.listener, parseAddress("127.0.0.1:0")), "bind")
	must(syscall.Listen(f.listener, 4096), "listen")
	f.loop.add(f.listener, syscall.EPOLLIN, f)
	redis := newSocket()
	if err := syscall.Connect(redis, parseAddress(orders.Redis)); err != nil && err != syscall.EINPROGRESS {
		fail("connect to Redis: " + err.Error())
	}
	f.loop.add(redis, syscall.EPOLLOUT, &subscription{fan: f, fd: redis, channel: orders.Channel})
	name, err := syscall.Getsockname(f.listener)
	must(err, "getsockname")
	fmt.Printf("{\"port\": %d}\n", name.(*syscall.SockaddrInet4).Port)
	for {
		f.loop.turn(time.Second)
	}
}

// ready takes in new connections.
func (f *fan) ready() {
	for {
		fd, _, err := syscall.Accept4(f.listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		if !write(fd, f.hello) {
			fail("a new connection takes nothing")
		}
		f.members = append(f.members, fd)
	}
}

// subscription is the connection to Redis.
type subscription struct {
	fan     *fan
	fd      int
	channel string
	asked   bool
	in      inbox
}

func (s *subscription) ready() {
	if !s.asked {
		s.asked = true
		if !write(s.fd, []byte("SUBSCRIBE "+s.channel+"\r\n")) {
			fail("Redis takes nothing")
		}
		s.fan.loop.control(syscall.EPOLL_CTL_MOD, s.fd, syscall.EPOLLIN)
		return
	}
	data, open := s.fan.loop.read(s.fd)
	if !open {
		fail("Redis hung up")
	}
	data = s.in.with(data)
	// *3, $7 message, $n channel, $n payload (RESP): the publisher ends its payload with this mark.
	for {
		end := bytes.Index(data, []byte("\n\n\r\n"))
		if end < 0 {
			break
		}
		start := bytes.Index(data[:end], []byte("event: "))
		if start < 0 {
			fail("Redis sent what is no event")
		}
		for _, fd := range s.fan.members {
			write(fd, data[start:end+2])
		}
		data = data[end+4:]
	}
	s.in.keep(data)
}
