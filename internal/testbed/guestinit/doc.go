// Command guestinit is process 1 of the testbed's guests, and their agent. It is linked statically and is /init of an image; package
// guest has what it does beyond starting. It reads its configuration from [guest.ConfigPath].
package main
