package child

import (
	"os/exec"
	"strconv"
	"syscall"
)

// Guard has a process, or with -n the process group n, get SIGTERM if this program
// ends first, however that is: killed, in a panic or by a timeout of go test. release
// ends the watch; it can be called whatever the error.
func Guard(pid int) (release func(), err error) {
	cmd := exec.Command("sh", "-c", `read never; kill -s TERM -- "$1"`, "sh", strconv.Itoa(pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that Ctrl-C leaves it alone
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return func() {}, err
	}
	if err := cmd.Start(); err != nil {
		return func() {}, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = stdin.Close() // not before, at which it would act
	}, nil
}
