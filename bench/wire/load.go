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
)

// One order on standard input, one line of JSON each; one line of answer on standard output.
type loadOrder struct {
	Do       string  `json:"do"` // relay, connect, open, close
	Address  string  `json:"address"`
	Path     string  `json:"path"`
	Key      string  `json:"key"`
	Secret   string  `json:"secret"`
	Request  []byte  `json:"request"`  // relay: a client's message
	Answer   []byte  `json:"answer"`   // relay: what must come back
	Count    int     `json:"count"`    // relay, open: connections; connect: at most so many in all, 0 for no limit
	Parallel int     `json:"parallel"` // connect, open: so many under way at once
	Seconds  float64 `json:"seconds"`  // relay, connect: how long; 0 for no limit
	Warmup   float64 `json:"warmup"`   // relay, connect: seconds before that, not counted
	Hold     bool    `json:"hold"`     // connect: connections stay open until "close"
	Pids     []int   `json:"pids"`     // whose CPU time is wanted
}

type loadAnswer struct {
	Count     int                `json:"count"`   // messages answered, or connections that saw their `join`
	Seconds   float64            `json:"seconds"` // of wall time that this took
	CPU       map[string]float64 `json:"cpu"`     // seconds used meanwhile, by pid; "load" is this program
	Latencies []float64          `json:"latencies,omitempty"`
	Failures  map[string]int     `json:"failures"` // by sentence; a figure with any is worthless
}

// giveUp ends an order in which nothing has happened for so long.
const giveUp = 15 * time.Second

// generator is all clients; it carries out one order at a time.
type generator struct {
	loop     *loop
	order    loadOrder
	address  *syscall.SockaddrInet4
	secret   []byte
	request  []byte // relay: masked frame
	number   int    // of the next participant, never used twice
	held     []*client
	answer   loadAnswer
	pending  int       // connections between connect and `join`
	moved    time.Time // when a `join` or an answer last came
	relaying bool
	again    bool // connect: each connection that has its `join` makes room for a new one
}

func load() {
	g := &generator{loop: newLoop()}
	orders := bufio.NewScanner(os.Stdin)
	orders.Buffer(nil, 1<<20)
	for orders.Scan() {
		g.order = loadOrder{}
		must(json.Unmarshal(orders.Bytes(), &g.order), "order")
		g.carryOut()
		text, err := json.Marshal(g.answer)
		must(err, "answer")
		fmt.Println(string(text))
	}
}

func (g *generator) carryOut() {
	g.answer = loadAnswer{Failures: map[string]int{}}
	g.moved, g.relaying, g.again = time.Now(), false, false
	if g.order.Do == "close" {
		g.closeAll()
		return
	}
	g.address = parseAddress(g.order.Address)
	g.secret = []byte(g.order.Secret)
	switch g.order.Do {
	case "relay":
		g.relay()
	case "connect":
		g.connect()
	case "open":
		g.open()
	default:
		fail("unknown order " + g.order.Do)
	}
}

// relay has one message in flight on each connection, and counts the answers.
func (g *generator) relay() {
	g.request = makeFrame(opBinary, []byte{1, 2, 3, 4}, g.order.Request)
	g.order.Parallel = g.order.Count
	g.open()
	g.relaying = true
	for _, c := range g.held {
		c.ask()
	}
	g.measure()
	g.relaying = false
	g.closeAll()
}

// connect opens connections one after another, so many at a time, each closed at its `join`.
func (g *generator) connect() {
	g.again = true
	for i := 0; i < g.order.Parallel; i++ {
		g.start()
	}
	g.measure()
	g.again = false
	for _, h := range g.loop.handlers {
		if c, ok := h.(*client); ok && c != nil && !c.joined {
			g.loop.drop(c.fd)
		}
	}
	g.pending = 0
}

// open opens connections and leaves them open.
func (g *generator) open() {
	before, start := cpuSeconds(g.order.Pids), time.Now()
	g.order.Hold = true
	for want := g.order.Count; want > 0 || g.pending > 0; {
		for want > 0 && g.pending < g.order.Parallel {
			g.start()
			want--
		}
		g.loop.turn(100 * time.Millisecond)
		if g.stuck() {
			break
		}
	}
	g.answer.CPU = difference(cpuSeconds(g.order.Pids), before)
	g.answer.Seconds = time.Since(start).Seconds()
}

// measure turns the loop for the order's warm-up, then for its seconds or until its count.
func (g *generator) measure() {
	g.run(g.order.Warmup, 0)
	g.answer.Count, g.answer.Latencies = 0, nil
	pids := append([]int{os.Getpid()}, g.order.Pids...)
	before, start := cpuSeconds(pids), time.Now()
	limit := g.order.Count
	if g.order.Do == "relay" {
		limit = 0
	}
	g.run(g.order.Seconds, limit)
	g.answer.Seconds = time.Since(start).Seconds()
	used := difference(cpuSeconds(pids), before)
	own := strconv.Itoa(os.Getpid())
	used["load"] = used[own]
	delete(used, own)
	g.answer.CPU = used
}

func (g *generator) run(seconds float64, limit int) {
	if seconds == 0 && limit == 0 {
		return
	}
	start := time.Now()
	for !g.stuck() {
		if seconds > 0 && time.Since(start).Seconds() >= seconds || limit > 0 && g.answer.Count >= limit {
			return
		}
		g.loop.turn(20 * time.Millisecond)
	}
}

func (g *generator) stuck() bool {
	if len(g.answer.Failures) > 0 && g.pending == 0 && !g.relaying {
		return true // every connection has failed
	}
	if time.Since(g.moved) < giveUp {
		return false
	}
	g.failed("nothing happened for " + giveUp.String())
	return true
}

func (g *generator) failed(sentence string) {
	g.answer.Failures[sentence]++
}

func (g *generator) closeAll() {
	for _, c := range g.held {
		if g.loop.handlers[c.fd] == handler(c) {
			g.loop.drop(c.fd)
		}
	}
	g.held = nil
}

// start begins one connection.
func (g *generator) start() {
	c := &client{generator: g, fd: newSocket(), began: time.Now(), token: makeToken(g.order.Key, g.secret, g.number)}
	g.number++
	g.pending++
	if err := syscall.Connect(c.fd, g.address); err != nil && err != syscall.EINPROGRESS {
		syscall.Close(c.fd)
		g.pending--
		g.failed("connect: " + err.Error())
		return
	}
	g.loop.add(c.fd, syscall.EPOLLOUT, c)
}

// client is one participant's signalling connection.
type client struct {
	generator *generator
	fd        int
	began     time.Time
	token     string
	asked     bool // the upgrade request is out
	switched  bool // 101 has come
	joined    bool
	in        inbox
}

const websocketKey = "bGl2ZWtpdC1wb29sLWJlbg=="

var (
	acceptHeader    = []byte("\r\nsec-websocket-accept: ")
	websocketAccept = []byte(acceptKey(websocketKey))
)

func (c *client) ready() {
	g := c.generator
	if !c.asked {
		c.upgrade()
		return
	}
	data, open := g.loop.read(c.fd)
	if !open {
		c.end("closed by the other side")
		return
	}
	data = c.in.with(data)
	if !c.switched {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			c.in.keep(data)
			return
		}
		if !c.accepted(data[:end]) {
			return
		}
		data = data[end+4:]
	}
	for {
		f, size := nextFrame(data)
		if size == 0 {
			break
		}
		if !c.take(f) {
			return
		}
		data = data[size:]
	}
	c.in.keep(data)
}

// upgrade sends the request once the socket is connected.
func (c *client) upgrade() {
	g := c.generator
	if failure, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || failure != 0 {
		c.end("connect: " + syscall.Errno(failure).Error())
		return
	}
	c.asked = true
	request := "GET " + g.order.Path + " HTTP/1.1\r\nHost: " + g.order.Address +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + websocketKey +
		"\r\nUser-Agent: livekit-pool-bench\r\nAuthorization: Bearer " + c.token + "\r\n\r\n"
	if !write(c.fd, []byte(request)) {
		c.end("request not written")
		return
	}
	c.token = ""
	g.loop.control(syscall.EPOLL_CTL_MOD, c.fd, syscall.EPOLLIN)
}

// accepted looks at the head of the answer to the upgrade; false where the client has ended.
func (c *client) accepted(head []byte) bool {
	status, _, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 101")) {
		c.end("refused: " + string(status))
		return false
	}
	// Names of headers know no case, the proof in this one does.
	at := bytes.Index(bytes.ToLower(head), acceptHeader)
	if at < 0 || !bytes.HasPrefix(head[at+len(acceptHeader):], websocketAccept) {
		c.end("upgraded without the right Sec-WebSocket-Accept")
		return false
	}
	c.switched = true
	return true
}

// take handles one frame; false where the client has ended.
func (c *client) take(f frame) bool {
	g := c.generator
	switch {
	case f.opcode == opPing:
		return c.send(makeFrame(opPong, []byte{1, 2, 3, 4}, f.payload))
	case f.opcode == opClose:
		c.end("closed by the other side")
		return false
	case f.opcode != opBinary || len(f.payload) == 0:
		return true
	case !c.joined:
		return c.join(f.payload)
	case !g.relaying:
		return true
	case !bytes.Equal(f.payload, g.order.Answer):
		g.failed("an answer that is not the one sent")
		return true
	}
	g.answer.Count++
	g.moved = time.Now()
	return c.ask()
}

// join is the first message; field 1 of SignalResponse (livekit_rtc.proto) is `join`.
func (c *client) join(payload []byte) bool {
	g := c.generator
	now := time.Now()
	if payload[0] != 1<<3|2 {
		c.end("the first message is not a join")
		return false
	}
	c.joined = true
	g.moved = now
	g.pending--
	g.answer.Count++
	if g.order.Do == "connect" && g.order.Parallel == 1 {
		g.answer.Latencies = append(g.answer.Latencies, now.Sub(c.began).Seconds())
	}
	if g.order.Hold {
		g.held = append(g.held, c)
	} else {
		g.loop.drop(c.fd)
	}
	if g.again && (g.order.Seconds > 0 || g.answer.Count+g.pending < g.order.Count) {
		g.start()
	}
	return g.order.Hold
}

// ask sends the next message.
func (c *client) ask() bool {
	return c.send(c.generator.request)
}

func (c *client) send(data []byte) bool {
	if write(c.fd, data) {
		return true
	}
	c.end("message not written")
	return false
}

// end is how a connection ends that should not have.
func (c *client) end(sentence string) {
	g := c.generator
	g.failed(sentence)
	g.loop.drop(c.fd)
	if !c.joined {
		g.pending--
	}
}
