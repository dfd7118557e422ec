package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/internal/testbed/guest"
	"golang.org/x/sys/unix"
)

// patience bounds the wait for a service, and for the channel.
const patience = 60 * time.Second

func main() {
	var err error
	if os.Getpid() == 1 {
		err = initialise()
	} else {
		err = serve()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hvkit-init:", err)
	}
	if os.Getpid() == 1 {
		off()
	}
	if err != nil {
		os.Exit(1)
	}
}

// initialise is what process 1 does: it makes the system a system, starts the agent, and waits for all children, its own and orphans,
// until the agent ends. The agent is another process because who waits for any child would take the agent's children from it.
func initialise() error {
	if err := mountAll(); err != nil {
		return err
	}
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	if err := prepare(cfg); err != nil {
		return err
	}
	agent, err := os.StartProcess("/init", []string{"hvkit-agent"}, &os.ProcAttr{
		Env: cfg.Env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == agent.Pid && (status.Exited() || status.Signaled()):
			return fmt.Errorf("the agent has ended: status %#x", uint32(status))
		}
	}
}

// serve is what the agent's process does: it starts the services and serves the channel.
func serve() error {
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	if isControlDomain() {
		for _, s := range cfg.Control {
			if err := start(&s, cfg.Env); err != nil {
				return err
			}
		}
	}
	conn, err := openChannel(cfg.Channel)
	if err != nil {
		return err
	}
	if strings.HasPrefix(cfg.Channel, "/") {
		// The kernel's words on a console would be taken for the agent's. From here on only those before a panic are printed.
		if err := os.WriteFile("/proc/sys/kernel/printk", []byte("1"), 0); err != nil {
			return err
		}
	}
	agent := &guest.Server{Env: cfg.Env}
	return agent.Serve(context.Background(), conn)
}

func readConfig() (*guest.Config, error) {
	text, err := os.ReadFile(guest.ConfigPath)
	if err != nil {
		return nil, err
	}
	cfg := new(guest.Config)
	if err := json.Unmarshal(text, cfg); err != nil {
		return nil, fmt.Errorf("%s: %w", guest.ConfigPath, err)
	}
	return cfg, nil
}

// isControlDomain reports whether this is Xen's control domain, as its kernel says.
func isControlDomain() bool {
	text, err := os.ReadFile("/proc/xen/capabilities")
	return err == nil && strings.Contains(string(text), "control_d")
}

// start starts a service and waits until it is there.
func start(s *guest.Service, env []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Path, s.Args...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", s.Path, err)
	}
	if s.Ready == "" {
		return nil
	}
	if err := await(func() error { _, err := os.Stat(s.Ready); return err }); err != nil {
		return fmt.Errorf("%s: it runs, but %w", s.Path, err)
	}
	return nil
}

// await tries f until it succeeds, or patience ends.
func await(f func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func off() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
