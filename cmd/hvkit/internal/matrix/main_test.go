package matrix

import (
	"testing"

	"github.com/hvkit/hvkit/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
