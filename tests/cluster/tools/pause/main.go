// Command pause is what runs in every pod's sandbox: it holds the pod's namespaces open and does nothing else.
// It is built statically, so that the sandbox image is this one file.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// As process 1 of its namespace it gets no default signal action: without a handler SIGTERM would be ignored and
	// every pod would take its whole grace period to stop.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)

	// It also becomes the parent of orphans when the pod shares its process namespace; they must be reaped.
	children := make(chan os.Signal, 16)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-stop:
			return
		case <-children:
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}
