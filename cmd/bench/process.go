package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"8space.app/stripe-sidecar/internal/sandbox/child"
)

// process is a running child: the service, the bare handler or the upstreams.
type process struct {
	*child.Process
	cmd    *exec.Cmd
	end    context.CancelFunc
	stdin  io.Closer // its end tells the bare handler and the upstreams to stop
	stdout bytes.Buffer
	logs   *os.File // standard error; a file, so that nobody spends time on reading it
	ready  ready
}

// ready is the line with which each of them says that it listens.
type ready struct {
	Msg         string `json:"msg"`
	Addr        string `json:"addr,omitempty"`
	Stripe      string `json:"stripe,omitempty"`   // URL
	Supabase    string `json:"supabase,omitempty"` // URL
	Certificate string `json:"certificate,omitempty"`
}

// announce is the child's side.
func announce(r ready) error {
	r.Msg = "listening"
	return json.NewEncoder(os.Stderr).Encode(r)
}

// launch starts a program and returns when it listens. The end of ctx kills it.
func launch(ctx context.Context, env []string, path string, args ...string) (*process, error) {
	ctx, end := context.WithCancel(ctx)
	p := &process{cmd: exec.CommandContext(ctx, path, args...), end: end}
	logs, err := os.CreateTemp("", "bench-*.log")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(logs.Name()) // it lives until it is closed
	p.logs = logs
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, &p.stdout, logs
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	defer time.AfterFunc(10*time.Second, end).Stop()
	if p.Process, err = child.Start(p.cmd, nil); err != nil {
		return nil, fmt.Errorf("%w: %s", err, p.logText())
	}
	return p, json.Unmarshal(p.Line, &p.ready)
}

// logText returns the first megabyte of what the process has logged.
func (p *process) logText() string {
	text, _ := io.ReadAll(io.NewSectionReader(p.logs, 0, 1<<20))
	return string(text)
}

// kill ends the process without its second of grace, and waits until it has.
func (p *process) kill() {
	p.end()
	p.Wait()
}

func (p *process) close() {
	p.kill()
	_ = p.logs.Close()
}

// finish has a child of this program end by itself and decodes what it printed.
func (p *process) finish(v any) error {
	_ = p.stdin.Close()
	if state := p.Wait(); !state.Success() {
		return fmt.Errorf("%s: %s", state, p.logText())
	}
	return json.Unmarshal(p.stdout.Bytes(), v)
}

func (p *process) proc(name string) string {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/" + name)
	return string(text)
}

// cpu returns the processor time used so far, in steps of 10 ms.
// https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
func (p *process) cpu() time.Duration {
	stat := p.proc("stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// status returns a number of /proc/<pid>/status: VmHWM and VmRSS in KiB, Threads.
func (p *process) status(name string) float64 {
	_, rest, _ := strings.Cut(p.proc("status"), "\n"+name+":")
	value, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	n, _ := strconv.ParseFloat(strings.TrimSuffix(value, " kB"), 64)
	return n
}

// resident and peak are the resident memory in MB, now and at most so far.
func (p *process) resident() float64 { return p.status("VmRSS") * 1024 / 1e6 }
func (p *process) peak() float64     { return p.status("VmHWM") * 1024 / 1e6 }

// files counts the open file descriptors, sockets included.
func (p *process) files() int {
	entries, _ := os.ReadDir("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/fd")
	return len(entries)
}

func checkProc() error {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		return errors.New("this program measures by /proc and needs Linux")
	}
	return nil
}
