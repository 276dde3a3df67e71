package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// ticks is the unit of the times in /proc/PID/stat: USER_HZ, 100 a second on every Linux.
const ticks = 100

// cpuSeconds is what the processes have used so far, user and system time together (proc(5),
// fields 14 and 15 of stat). A process that has ended counts as zero.
func cpuSeconds(pids []int) map[string]float64 {
	used := make(map[string]float64, len(pids))
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The name in field 2 may hold spaces and brackets; the last ")" ends it.
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		user, _ := strconv.Atoi(string(fields[11]))
		system, _ := strconv.Atoi(string(fields[12]))
		used[strconv.Itoa(pid)] = float64(user+system) / ticks
	}
	return used
}

func difference(after, before map[string]float64) map[string]float64 {
	used := make(map[string]float64, len(after))
	for pid, seconds := range after {
		used[pid] = seconds - before[pid]
	}
	return used
}
