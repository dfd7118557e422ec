package xenstore

// DialConn is what Dial makes a client of.
var DialConn = dial
