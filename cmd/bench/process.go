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
)

// process is a running child: the service, the bare handler or the upstreams.
type process struct {
	cmd    *exec.Cmd
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

const listening = "listening"

// announce is the child's side.
func announce(r ready) error {
	r.Msg = listening
	return json.NewEncoder(os.Stderr).Encode(r)
}

// launch starts a program and returns when it listens. The end of ctx kills it.
func launch(ctx context.Context, env []string, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, program, args...)}
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
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		for line := range strings.SplitAfterSeq(p.logText(), "\n") {
			var r ready
			if json.Unmarshal([]byte(line), &r) == nil && r.Msg == listening {
				p.ready = r
				return p, nil
			}
		}
	}
	p.kill()
	return nil, fmt.Errorf("%s does not listen: %s", program, p.logText())
}

// logText returns the first megabyte of what the process has logged.
func (p *process) logText() string {
	text, _ := io.ReadAll(io.NewSectionReader(p.logs, 0, 1<<20))
	return string(text)
}

// kill ends the process without its second of grace, and waits until it has.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) close() {
	if p.cmd.ProcessState == nil {
		p.kill()
	}
	_ = p.logs.Close()
}

// finish has a child of this program end by itself and decodes what it printed.
func (p *process) finish(v any) error {
	_ = p.stdin.Close()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, p.logText())
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
