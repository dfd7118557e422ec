// Package guest is the agent that runs inside the machines of the testbed, and the client that talks to it from outside.
//
// The agent is an HTTP/2 server on one connection: a virtio port in the control domain, the console in a domain above it. HTTP/2 gives
// what the purpose needs, many streams with flow control on one pipe of bytes, and the standard library has it. The requests are
//
//	POST /run      start a program; its input is the request's body, its output and exit status are frames of the reply
//	PUT  /file     write a file
//	GET  /file     read a file
//	POST /pipe     carry bytes between the request and a device, such as the pseudo-terminal of another domain's console
//	POST /wake     take the time, and new random numbers, after a snapshot
//	POST /window, PUT /window, POST /window/take, DELETE /window
//	               bring a file to a domain through memory that it grants for a moment: a console carries sixteen bytes at a time
//
// Before the server speaks it writes a line ([Ready]). Whatever came before on the connection, such as a kernel's messages on a console,
// is no part of the conversation: [Await] reads past it.
//
// [Config] is what an image tells its init, which is internal/testbed/guestinit.
package guest

// ConfigPath is where an image has its [Config], as JSON.
const ConfigPath = "/etc/hvkit-guest.json"

// Ready is the line after which a connection belongs to the agent.
const Ready = "\n=== hvkit guest 1 ===\n"

// Config is what init of a guest does before it serves.
type Config struct {
	Hostname string
	// Env is the environment of every program that is run.
	Env []string
	// Modules are in the order in which the kernel takes them. One that the kernel has no device for is not an error.
	Modules []Module
	// Channel is where the agent serves: the path of a terminal, or "virtio:" and the name of a port.
	Channel string
	// Control are started, in order, in a control domain only.
	Control []Service
}

// Module is one of the kernel's.
type Module struct {
	Path       string
	Parameters string `json:",omitempty"` // "name=value name=value"
}

// Service is a program that is started before the agent serves. It puts itself into the background, or ends.
type Service struct {
	Path string
	Args []string
	// Ready is a file that appears when the service is there. Empty: it is there when the program has ended.
	Ready string
}
