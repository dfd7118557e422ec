package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/doctor"
)

func TestDoctorJSON(t *testing.T) {
	stdout, _, _ := hvkit(t, "", "doctor", "--json") // what it exits with depends on the machine
	var found []doctor.Finding
	require.NoError(t, json.Unmarshal([]byte(stdout), &found))
	require.NotEmpty(t, found)
}

func TestDoctorUdevRule(t *testing.T) {
	stdout, _, code := hvkit(t, "", "doctor", "--udev-rule")
	require.Zero(t, code)
	require.Equal(t, doctor.UdevRule, stdout)
}

func TestPrintFindings(t *testing.T) {
	var out bytes.Buffer
	printFindings(&out, []doctor.Finding{
		{Topic: "machine", Name: "system", State: doctor.OK, Detail: "linux"},
		{Topic: "tools", Name: "gcc", State: doctor.Absent, Detail: "comparing", Mend: "apt-get install -y gcc"},
		{Topic: "tools", Name: "open files", State: doctor.Missing, Detail: "at most 3"},
	})
	require.Equal(t, `machine
  system  ok  linux

tools
  gcc         -        comparing
  open files  MISSING  at most 3

to get what is not there
  gcc  apt-get install -y gcc
`, out.String())
}
