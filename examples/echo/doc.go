// Command echo is the README's program: a domain that sends every other domain back what it says.
//
//	$ hvkit host
//	$ HVKIT_HOST=/run/user/1000/hvkit/host.sock HVKIT_DOMAIN=server go run ./examples/echo
//	$ hvkit vchan dial --domain client server echo
package main
