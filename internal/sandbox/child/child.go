// Package child starts programs that tell by a line of their log, a JSON
// object whose msg is "listening", that they listen and where.
package child

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Process is a program that was started. It is safe for concurrent use.
type Process struct {
	Addr string // host:port, as its line tells; may be empty
	Line []byte // the whole line

	cmd   *exec.Cmd
	ended chan struct{}
}

// Start starts cmd and returns when it listens. What it logs to standard error
// goes to logs, all but the line itself. If cmd.Stderr is a file, open for
// reading, the program writes there itself, the line included, so that nobody
// spends time on passing it on; logs is not used then.
//
// The error tells how the program ended if it does so first. Who wants to wait
// no longer than for some time gives cmd a context.
func Start(cmd *exec.Cmd, logs io.Writer) (*Process, error) {
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	var pipe io.Reader
	file, isFile := cmd.Stderr.(*os.File)
	if !isFile {
		var err error
		if pipe, err = cmd.StderrPipe(); err != nil {
			return nil, err
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	listening := make(chan []byte, 1)
	go func() {
		defer close(p.ended)
		if !isFile {
			Forward(logs, pipe, listening)
		}
		_ = cmd.Wait() // its ProcessState tells
	}()
	if isFile {
		enough := make(chan struct{})
		defer close(enough)
		go Forward(io.Discard, &follower{file: file, ended: p.ended, enough: enough}, listening)
	}
	select {
	case p.Line = <-listening:
		p.Addr = parse(p.Line).Addr
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("%s ended before it listened: %s", cmd.Path, cmd.ProcessState)
	}
}

// Forward copies a log line by line until it ends. The first line that says
// that the program listens goes to listening, which must have room for it, and
// not to logs.
func Forward(logs io.Writer, log io.Reader, listening chan<- []byte) {
	lines := bufio.NewReader(log)
	for told := false; ; {
		line, err := lines.ReadBytes('\n')
		if !told && parse(line).Msg == "listening" {
			told = true
			listening <- line
		} else {
			_, _ = logs.Write(line)
		}
		if err != nil {
			return
		}
	}
}

type entry struct{ Msg, Addr string }

// parse returns the zero entry for a line that is not JSON.
func parse(line []byte) (e entry) {
	if json.Unmarshal(line, &e) != nil {
		return entry{}
	}
	return e
}

// Ended is closed when the program has ended and its log is complete.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait waits until the program has ended and returns how.
func (p *Process) Wait() *os.ProcessState {
	<-p.ended
	return p.cmd.ProcessState
}

// Signal sends a signal; the error is [os.ErrProcessDone] if the program has
// ended.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the program at once.
func (p *Process) Kill() error { return p.Signal(os.Kill) }

// follower reads a file that a program writes.
type follower struct {
	file   *os.File
	offset int64
	ended  <-chan struct{} // closed when there will be no more
	enough <-chan struct{} // closed when nobody reads any more
}

func (f *follower) Read(b []byte) (int, error) {
	for last := false; ; {
		n, err := f.file.ReadAt(b, f.offset)
		f.offset += int64(n)
		if n > 0 {
			return n, nil
		}
		if err != io.EOF || last {
			return 0, err
		}
		select {
		case <-f.ended:
			last = true
		case <-f.enough:
			return 0, io.EOF
		case <-time.After(200 * time.Microsecond):
		}
	}
}
