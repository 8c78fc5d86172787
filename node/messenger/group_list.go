package messenger

import (
	"slices"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/messenger/archive"
)

// The account's devices share a list of its groups: the config UserGroups, which is
// the truth about which groups there are, whether the owner is in, and what lets
// them in. Nothing else of it is looked at, and nowhere but here.

// listedGroups are the groups of the list.
func (s *session) listedGroups() (list []config.Group) {
	s.archive.ViewConfigs(func(c *archive.Configs) { list = slices.Collect(c.Groups.Groups()) })
	return list
}

// listedGroup is the entry of one group.
func (s *session) listedGroup(id account.ID) (entry config.Group, ok bool) {
	s.archive.ViewConfigs(func(c *archive.Configs) { entry, ok = c.Groups.Find(id) })
	return entry, ok
}

// putListed is the change of the list that stores an entry.
func putListed(entry config.Group) func(*archive.Configs) error {
	return func(c *archive.Configs) error {
		entry.Name = config.CutName(entry.Name)
		return c.Groups.Put(entry)
	}
}

// isIn reports whether the owner takes part in a group and has what lets them in.
func isIn(entry config.Group) bool {
	return !entry.Invited && entry.Removed == config.Staying && (entry.Admin || len(entry.Auth) == config.AuthSize)
}
