package console

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"hearth/node/account"
	"hearth/node/api"
)

// names are what the people and groups are called that somebody can type: those of
// contacts, of strangers who wrote, and of groups.
func (c *Console) names(ctx context.Context) (names []string, err error) {
	contacts, err := c.cfg.Messenger.Contacts(ctx, &api.ContactsRequest{})
	if err != nil {
		return nil, serviceError{messenger, err}
	}
	requests, err := c.cfg.Messenger.Requests(ctx, &api.RequestsRequest{})
	if err != nil {
		return nil, serviceError{messenger, err}
	}
	groups, err := c.cfg.Messenger.Groups(ctx, &api.GroupsRequest{})
	if err != nil {
		return nil, serviceError{messenger, err}
	}
	for _, who := range append(contacts.GetContacts(), requests.GetContacts()...) {
		names = append(names, who.GetName())
	}
	for _, g := range groups.GetGroups() {
		names = append(names, g.GetName())
	}
	return names, nil
}

// cutName cuts the name of a person or group off a line. One with spaces is found
// without quotes as well, unless the line can be read in two ways: what is meant for
// Anna B must not go to Anna.
func (c *Console) cutName(ctx context.Context, line string) (name, rest string, err error) {
	word, rest := cutWord(line)
	if trimmed := strings.TrimLeft(line, " "); strings.HasPrefix(trimmed, `"`) || strings.TrimSpace(rest) == "" {
		return word, rest, nil
	}
	if _, err := account.ParseID(word); err == nil {
		return word, rest, nil
	}
	names, err := c.names(ctx)
	if err != nil {
		return "", "", err
	}
	return nameIn(names, line)
}

// nameIn is cutName for a line that begins with no quote and no ID. Where it begins
// with no name, the first word is taken for one.
func nameIn(names []string, line string) (name, rest string, err error) {
	line = strings.TrimLeft(line, " ")
	var found []string
	for _, name := range names {
		name = strings.TrimSpace(name)
		if len(name) == 0 || len(line) < len(name) || !strings.EqualFold(line[:len(name)], name) || len(line) > len(name) && line[len(name)] != ' ' {
			continue
		}
		if !slices.ContainsFunc(found, func(other string) bool { return strings.EqualFold(other, name) }) {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 0:
		name, rest = cutWord(line)
		return name, rest, nil
	case 1:
		return found[0], strings.TrimPrefix(line[len(found[0]):], " "), nil
	}
	slices.Sort(found)
	return "", "", usageError(fmt.Sprintf("This can be for %s and for %s: put the name in quotes, as in send \"%s\" hello", clip(found[0], 40), clip(found[1], 40), clip(found[1], 40)))
}

// people cuts a rest of a line into people.
func (c *Console) people(ctx context.Context, rest string) (list []string, err error) {
	for strings.TrimSpace(rest) != "" {
		var name string
		if name, rest, err = c.cutName(ctx, rest); err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, nil
}

// peopleAnd reads people, behind whom one certain word may stand.
func (c *Console) peopleAnd(ctx context.Context, rest, word string) (list []string, with bool, err error) {
	if list, err = c.people(ctx, rest); err != nil {
		return nil, false, err
	}
	if n := len(list); n > 1 && strings.EqualFold(list[n-1], word) {
		return list[:n-1], true, nil
	}
	return list, false, nil
}

// person is how a line names somebody who is not in a conversation already: by their
// name, or else by the whole Session ID, which can be typed behind a command.
func person(name, id string) string {
	if name != "" {
		return clip(name, 66)
	}
	return id
}
