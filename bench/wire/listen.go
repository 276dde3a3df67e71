package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// One order on standard input, one line of JSON each; one line of answer on standard output.
type listenOrder struct {
	Do      string  `json:"do"`      // open: connect and wait for Marker; hear: wait until Marker has come to all
	Address string  `json:"address"` // open
	Count   int     `json:"count"`   // open: connections
	Request []byte  `json:"request"` // open: what each connection sends first
	Marker  string  `json:"marker"`  // what is waited for; hear: a number follows it
	Seconds float64 `json:"seconds"` // at most so long
	Pids    []int   `json:"pids"`    // hear: whose CPU time is wanted, from the order until all have heard
}

type listenAnswer struct {
	Arrivals []float64          `json:"arrivals,omitempty"` // hear: of each listener, on the monotonic clock of the machine
	Numbers  map[string]int     `json:"numbers,omitempty"`  // hear: what followed the marker, and how often
	CPU      map[string]float64 `json:"cpu,omitempty"`      // seconds, by pid; "listeners" is this program
	Failures map[string]int     `json:"failures"`           // by sentence; a figure with any is worthless
}

// audience is all listeners: connections to which something is told, and which say nothing
// themselves after their first request.
type audience struct {
	loop      *loop
	listeners []*listener
	order     listenOrder
	marker    []byte
	answer    listenAnswer
	waiting   int // listeners to which the marker has not come yet
	pending   int // of those, the ones that are being opened
}

// clockAnchor ties this program's monotonic time to the machine's clock, which Python reads too.
var clockAnchor, clockStart = monotonic(), time.Now()

func listen() {
	a := &audience{loop: newLoop()}
	orders := bufio.NewScanner(os.Stdin)
	orders.Buffer(nil, 1<<20)
	for orders.Scan() {
		a.order = listenOrder{}
		must(json.Unmarshal(orders.Bytes(), &a.order), "order")
		a.marker = []byte(a.order.Marker)
		a.answer = listenAnswer{Failures: map[string]int{}, Numbers: map[string]int{}}
		switch a.order.Do {
		case "open":
			a.open()
		case "hear":
			a.hear()
		default:
			fail("unknown order " + a.order.Do)
		}
		say(a.answer)
	}
}

func say(answer any) {
	text, err := json.Marshal(answer)
	must(err, "answer")
	fmt.Println(string(text))
}

// monotonic is CLOCK_MONOTONIC (clock_gettime(2)) in seconds: the same for all programs here.
func monotonic() float64 {
	var now syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		fail("clock_gettime: " + errno.Error())
	}
	return float64(now.Sec) + float64(now.Nsec)/1e9
}

// open adds connections, some at a time, each until the marker has come to it.
func (a *audience) open() {
	address := parseAddress(a.order.Address)
	a.waiting = 0
	for want := a.order.Count; want > 0 || a.waiting > 0; {
		for want > 0 && a.pending < 100 {
			l := &listener{audience: a, fd: newSocket(), opening: true}
			if err := syscall.Connect(l.fd, address); err != nil && err != syscall.EINPROGRESS {
				fail("connect: " + err.Error())
			}
			a.listeners = append(a.listeners, l)
			a.loop.add(l.fd, syscall.EPOLLOUT, l)
			a.waiting++
			a.pending++
			want--
		}
		if !a.turn() {
			return
		}
	}
}

// hear waits until the marker has come to every listener, and tells when it came to each.
func (a *audience) hear() {
	for _, l := range a.listeners {
		l.heard, l.tail = false, l.tail[:0]
	}
	a.answer.Arrivals = make([]float64, 0, len(a.listeners))
	a.waiting = len(a.listeners)
	pids := append([]int{os.Getpid()}, a.order.Pids...)
	before := cpuSeconds(pids)
	// From here on everything is seen: what is to be heard may be said now.
	say(map[string]bool{"hearing": true})
	for start := time.Now(); a.waiting > 0; {
		if !a.turn() || time.Since(start).Seconds() > a.order.Seconds {
			a.failed(strconv.Itoa(a.waiting) + " listeners heard nothing")
			break
		}
	}
	used := difference(cpuSeconds(pids), before)
	own := strconv.Itoa(os.Getpid())
	used["listeners"] = used[own]
	delete(used, own)
	a.answer.CPU = used
}

// turn lets listeners read; false where any of them has failed.
//
// Between two turns it sleeps: woken by each single message, this program would take its core from
// those it listens to, and have them pay for the waking. A message is noticed that much later.
func (a *audience) turn() bool {
	if !a.loop.turn(100 * time.Millisecond) {
		time.Sleep(time.Millisecond)
	}
	return len(a.answer.Failures) == 0
}

func (a *audience) failed(sentence string) {
	a.answer.Failures[sentence]++
}

// listener is one connection.
type listener struct {
	audience *audience
	fd       int
	opening  bool // the request is not sent, or the marker has not come after it
	asked    bool
	heard    bool
	tail     []byte // see keep
}

const longestMarker = 64

func (l *listener) ready() {
	a := l.audience
	if !l.asked {
		if failure, err := syscall.GetsockoptInt(l.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || failure != 0 {
			l.end("connect: " + syscall.Errno(failure).Error())
			return
		}
		l.asked = true
		if len(a.order.Request) > 0 && !write(l.fd, a.order.Request) {
			l.end("request not written")
			return
		}
		a.loop.control(syscall.EPOLL_CTL_MOD, l.fd, syscall.EPOLLIN)
		return
	}
	data, open := a.loop.read(l.fd)
	if !open {
		l.end("closed by the other side")
		return
	}
	if l.heard || len(data) == 0 {
		return
	}
	if len(l.tail) > 0 {
		data = append(l.tail, data...)
	}
	at := bytes.Index(data, a.marker)
	if at < 0 {
		l.keep(data[max(0, len(data)-longestMarker):])
		return
	}
	number, _, whole := bytes.Cut(data[at+len(a.marker):], []byte("\n"))
	if !whole && !l.opening {
		l.keep(data[at:])
		return
	}
	l.found(number)
}

// keep holds on to the end of what was read: the marker may come in pieces.
func (l *listener) keep(data []byte) {
	l.tail = append(l.tail[:0], data...)
}

// found notes that the marker has come, with the number that follows it.
func (l *listener) found(number []byte) {
	a := l.audience
	l.heard, l.tail = true, l.tail[:0]
	a.waiting--
	if l.opening {
		l.opening = false
		a.pending--
		return
	}
	a.answer.Arrivals = append(a.answer.Arrivals, clockAnchor+time.Since(clockStart).Seconds())
	a.answer.Numbers[string(bytes.TrimSpace(number))]++
}

// end is how a connection ends that should not have.
func (l *listener) end(sentence string) {
	l.audience.failed(sentence)
	l.audience.loop.drop(l.fd)
}
