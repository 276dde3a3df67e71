// Wire holds both ends between which the benchmarks put a relay: a stand-in for a LiveKit
// server's signalling ("serve") and the clients that load it ("load"); those who listen to events
// ("listen"), and the least that could tell them ("fan").
//
// All are one thread around epoll, with nothing allocated per message: a stand-in that costs
// as much as the relay it measures would be what is measured. Standard library only, Linux only.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

func main() {
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(800)
	if len(os.Args) != 2 {
		fail("usage: wire serve|load|listen|fan; all read JSON from standard input")
	}
	switch os.Args[1] {
	case "serve":
		serve()
	case "load":
		load()
	case "listen":
		listen()
	case "fan":
		fanOut()
	default:
		fail("unknown command " + os.Args[1] + ": serve, load, listen or fan")
	}
}

// fail ends the program with one sentence on standard error.
func fail(sentence string) {
	fmt.Fprintln(os.Stderr, sentence)
	os.Exit(1)
}

// must ends the program where err is set; for what cannot fail on a machine that works.
func must(err error, doing string) {
	if err != nil {
		fail(doing + ": " + err.Error())
	}
}
