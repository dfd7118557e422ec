package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/doctor"
	"github.com/hvkit/hvkit/cmd/hvkit/internal/terminal"
)

type doctorCmd struct {
	hostFlags
	JSON     bool `name:"json" help:"Print a list of findings."`
	UdevRule bool `name:"udev-rule" help:"Print a udev rule that gives the group xen the devices of a Xen domain."`
}

// Help has the examples.
func (*doctorCmd) Help() string {
	return `It exits with 1 where something is missing that the simulated host needs. What is absent beside that, other platforms and the
tests of the module itself would use. It changes nothing.

Examples:

    hvkit doctor
    hvkit doctor --json | python3 -m json.tool
    hvkit doctor --udev-rule`
}

// Run prints what was found.
func (c *doctorCmd) Run(s *streams) error {
	if c.UdevRule {
		_, err := io.WriteString(s.out, doctor.UdevRule)
		return err
	}
	named := c.Host != defaultHostSocket()
	found := doctor.Examine(doctor.Local(filepath.Dir(c.Host), named, func() bool { return served("unixpacket", c.Host) }))
	if c.JSON {
		if err := writeJSON(s.out, found); err != nil {
			return err
		}
	} else {
		printFindings(s.out, found)
	}
	if !doctor.Healthy(found) {
		return fmt.Errorf("the simulated host would not work for other processes here")
	}
	return nil
}

var marks = map[doctor.State]string{doctor.OK: "ok", doctor.Missing: "MISSING", doctor.Absent: "-", doctor.Note: ""}

// printFindings prints a block for each topic, and then the commands that mend what is not there.
func printFindings(w io.Writer, found []doctor.Finding) {
	var rows, mends [][]string
	topic := ""
	flush := func() {
		if len(rows) > 0 {
			fmt.Fprintf(w, "%s\n", topic)
			terminal.Table(w, rows, false)
			fmt.Fprintln(w)
		}
		rows = nil
	}
	for _, f := range found {
		if f.Topic != topic {
			flush()
			topic = f.Topic
		}
		rows = append(rows, []string{"  " + f.Name, marks[f.State], f.Detail})
		if f.Mend != "" {
			mends = append(mends, []string{"  " + f.Name, f.Mend})
		}
	}
	flush()
	if len(mends) > 0 {
		fmt.Fprintln(w, "to get what is not there")
		terminal.Table(w, mends, false)
	}
}
