package grant_test

import (
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/grant/granttest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// A quota is a table.
func TestQuotaConformance(t *testing.T) {
	granttest.TestTable(t, func(t *testing.T) (a, b granttest.Side) {
		a, b = newSides(t)
		for _, side := range []*granttest.Side{&a, &b} {
			q := grant.NewQuota(side.Table, grant.Limits{Shared: 1 << 20, Mapped: 1 << 20})
			t.Cleanup(func() {
				s := q.Stats()
				require.Zero(t, s.Shared+s.Mapped)
				_ = q.Close() // looks for what peers have let go of since; what they have not the host tells
			})
			side.Table = q
		}
		return a, b
	})
}

// quotas gives two devices of a domain their parts of its table, and the domain that they talk to.
func quotas(t *testing.T) (mine, other *grant.Quota, peer granttest.Side, id hypercall.DomID) {
	a, b := newSides(t)
	return grant.NewQuota(a.Table, grant.Limits{Shared: 8, Mapped: 3}), grant.NewQuota(a.Table, grant.Limits{Shared: 4}), b, a.ID
}

// G-17: a device that shares ever more comes to its own limit, and others have theirs.
func TestG17_QuotaOfADevice(t *testing.T) {
	mine, other, peer, _ := quotas(t)
	var shares []grant.Share
	for {
		s, err := mine.Share(peer.ID, 3, grant.ReadWrite)
		if err != nil {
			e, ok := errors.AsType[*grant.QuotaError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, grant.QuotaError{Op: "share", Want: 3, Used: 6, Limit: 8}, *e)
			require.ErrorIs(t, err, grant.ErrNoSpace)
			break
		}
		shares = append(shares, s)
		require.LessOrEqual(t, len(shares), 2)
	}
	s, err := other.Share(peer.ID, 4, grant.ReadWrite)
	require.NoError(t, err, "another device has its own part")
	shares = append(shares, s)
	for range 2 { // what a share used counts once
		for _, s := range shares[1:] {
			_, err = s.End()
			require.NoError(t, err)
		}
	}
	require.Equal(t, 3, mine.Stats().Shared)
	_, err = mine.Share(peer.ID, -1, grant.ReadWrite)
	require.Error(t, err)
	_, err = mine.Share(peer.ID, 6, grant.ReadWrite)
	require.ErrorIs(t, err, grant.ErrNoSpace)
	_, err = mine.Share(peer.ID, 5, grant.ReadWrite)
	require.NoError(t, err)
	require.NoError(t, mine.Close())
	require.NoError(t, other.Close())
}

func TestQuotaOfMappings(t *testing.T) {
	mine, other, peer, id := quotas(t)
	s, err := peer.Table.Share(id, 4, grant.ReadWrite)
	require.NoError(t, err)
	_, err = mine.Map(peer.ID, s.Refs(), grant.ReadWrite)
	e, ok := errors.AsType[*grant.QuotaError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, grant.QuotaError{Op: "map", Want: 4, Limit: 3}, *e)
	_, err = mine.Map(peer.ID, []grant.Ref{1 << 30}, grant.ReadWrite)
	require.Error(t, err)
	require.Zero(t, mine.Stats().Mapped, "what failed does not count")
	_, err = mine.Map(peer.ID, s.Refs()[:3], grant.ReadWrite)
	require.NoError(t, err)
	_, err = other.Map(peer.ID, s.Refs()[:1], grant.ReadWrite)
	require.ErrorIs(t, err, grant.ErrNoSpace)

	require.NoError(t, mine.Close(), "it lets go of what is mapped")
	require.Zero(t, mine.Stats().Mapped)
	_, err = mine.Map(peer.ID, s.Refs()[:1], grant.ReadWrite)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = mine.Share(peer.ID, 1, grant.ReadWrite)
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, mine.Close())
	ending, err := s.End()
	require.NoError(t, err)
	require.Equal(t, grant.Reclaimed, ending)
}

// What the peer keeps is the table's to remember.
func TestQuotaCloseWhileMapped(t *testing.T) {
	mine, _, peer, id := quotas(t)
	s, err := mine.Share(peer.ID, 2, grant.ReadWrite)
	require.NoError(t, err)
	m, err := peer.Table.Map(id, s.Refs(), grant.ReadWrite)
	require.NoError(t, err)
	require.ErrorIs(t, mine.Close(), grant.ErrBusy)
	require.Zero(t, mine.Stats().Shared)
	require.Equal(t, 2, mine.Stats().Quarantined)
	require.ErrorIs(t, mine.Close(), grant.ErrBusy)
	require.NoError(t, m.Close())
	require.NoError(t, mine.Close())
	require.Zero(t, mine.Stats().Quarantined)
}

// G-17: a peer that maps each page before its share ends does not make a device's part larger.
func TestG17_QuotaCountsWhatPeersKeep(t *testing.T) {
	mine, other, peer, id := quotas(t)
	var kept []grant.Mapping
	for range 8 {
		s, err := mine.Share(peer.ID, 1, grant.ReadWrite)
		require.NoError(t, err)
		m, err := peer.Table.Map(id, s.Refs(), grant.ReadWrite)
		require.NoError(t, err)
		kept = append(kept, m)
		ending, err := s.End()
		require.NoError(t, err)
		require.Equal(t, grant.Busy, ending)
	}
	require.Zero(t, mine.Stats().Shared)
	_, err := mine.Share(peer.ID, 1, grant.ReadWrite)
	require.ErrorIs(t, err, grant.ErrNoSpace)
	s, err := other.Share(peer.ID, 4, grant.ReadWrite)
	require.NoError(t, err, "another device has its own part")
	_, err = s.End()
	require.NoError(t, err)
	for _, m := range kept[:2] {
		require.NoError(t, m.Close())
	}
	_, err = mine.Share(peer.ID, 2, grant.ReadWrite)
	require.NoError(t, err, "what peers let go of is free again")
	_, err = mine.Share(peer.ID, 1, grant.ReadWrite)
	require.ErrorIs(t, err, grant.ErrNoSpace)
	require.ErrorIs(t, mine.Close(), grant.ErrBusy)
	for _, m := range kept[2:] {
		require.NoError(t, m.Close())
	}
	require.NoError(t, mine.Close())
}

// A quota of a quota is one, also when it is closed.
func TestQuotaOfAQuota(t *testing.T) {
	mine, _, peer, id := quotas(t)
	part := grant.NewQuota(mine, grant.Limits{Shared: 2})
	s, err := part.Share(peer.ID, 2, grant.ReadWrite)
	require.NoError(t, err)
	m, err := peer.Table.Map(id, s.Refs(), grant.ReadWrite)
	require.NoError(t, err)
	require.ErrorIs(t, part.Close(), grant.ErrBusy)
	require.NoError(t, m.Close())
	require.NoError(t, part.Close())
	require.NoError(t, mine.Close())
}
