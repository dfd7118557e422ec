package matrix

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const events = `{"Action":"run","Test":"TestVersions"}
{"Action":"output","Test":"TestVersions/amd64","Output":"    x_test.go:1: version: amd64: Xen 4.17.7\n"}
{"Action":"pass","Test":"TestVersions/amd64","Elapsed":1}
{"Action":"pass","Test":"TestVersions","Elapsed":1}
{"Action":"pass","Test":"TestAMD64/dom0/Grants/TestLinux/Map"}
{"Action":"skip","Test":"TestAMD64/dom0/Grants/TestLinux/Copy"}
{"Action":"pass","Test":"TestAMD64/dom0/Grants/TestLinux"}
{"Action":"pass","Test":"TestAMD64/dom0/Grants","Elapsed":2.4}
{"Action":"pass","Test":"TestAMD64/dom0"}
{"Action":"pass","Test":"TestAMD64"}
{"Action":"output","Test":"TestARM64/pvh/Events/TestNotify","Output":"hello"}
{"Action":"fail","Test":"TestARM64/pvh/Grants/TestLinux"}
{"Action":"pass"}
`

func TestTable(t *testing.T) {
	var said []string
	all, err := Read(strings.NewReader(events), func(line string) { said = append(said, line) })
	require.NoError(t, err)
	require.Contains(t, said, "pass  TestAMD64/dom0/Grants  2 s")
	require.NotContains(t, strings.Join(said, "\n"), "Map")
	require.Equal(t, 2, Failed(all), "one failed, one did not end")
	require.Equal(t, `On 2026-01-02; amd64: Xen 4.17.7. The figures are tests that passed.

| suite | x86-64 dom0 | arm64 pvh |
|---|---|---|
| Grants | 1, 1 skipped | 0, **1 failed** |
| Events |  | 0, **1 failed** |

| beside the suites | |
|---|---|
| TestVersions, amd64 | 1 |

`, string(Table(all, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), false)))
	_, err = Read(strings.NewReader("no json"), nil)
	require.Error(t, err)
}
