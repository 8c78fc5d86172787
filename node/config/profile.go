package config

// The keys of a user profile, by the letters of libsession-util's
// user_profile.hpp. What is there besides them, as the settings of Session Pro,
// stays as it is.
const (
	profileName       = "n"
	profileURL        = "p"
	profileKey        = "q"
	profilePriority   = "+"
	profileTimer      = "e"
	profileRequests   = "M"
	profileUpdated    = "t"
	profileNewURL     = "P" // the picture stored again under another address
	profileNewKey     = "Q"
	profileNewUpdated = "T"
)

// Profile is the view of a [UserProfile]: what others see of the owner, and the
// settings of the conversation with oneself.
type Profile struct{ *Object }

// Name is the name that others see; empty when none was set.
func (p Profile) Name() string { return p.message.data.text(profileName) }

// SetName stores the name. Errors: [ErrValue] above [MaxName] bytes; see
// [CutName].
func (p Profile) SetName(name string) error {
	if err := checkLength("profile name", name, MaxName); err != nil {
		return err
	}
	return p.change(func(t *tree) { t.at().text(profileName, name) })
}

// Picture is the profile picture. When a client has stored it again, because
// files do not live for ever, the newer address counts.
func (p Profile) Picture() Picture {
	d := p.message.data
	if d.unixTime(profileNewUpdated) > d.unixTime(profileUpdated) {
		if again := d.picture(profileNewURL, profileNewKey); again.URL != "" {
			return again
		}
	}
	return d.picture(profileURL, profileKey)
}

// SetPicture stores another picture; an empty one removes it. Errors:
// [ErrValue] for an address above [MaxPictureURL] bytes.
func (p Profile) SetPicture(picture Picture) error {
	if err := checkLength("picture address", picture.URL, MaxPictureURL); err != nil {
		return err
	}
	return p.change(func(t *tree) {
		f := t.at()
		f.picture(profileURL, profileKey, picture)
		// The address under which the old one was stored again would win.
		f.picture(profileNewURL, profileNewKey, Picture{})
		f.erase(profileNewUpdated)
	})
}

// Renewed stores the address under which a client has stored the same picture
// again, at a time in unix seconds. Errors: those of [Profile.SetPicture].
func (p Profile) Renewed(picture Picture, at int64) error {
	if err := checkLength("picture address", picture.URL, MaxPictureURL); err != nil {
		return err
	}
	return p.change(func(t *tree) {
		f := t.at()
		f.picture(profileNewURL, profileNewKey, picture)
		f.positive(profileNewUpdated, at)
	})
}

// Updated is when name or picture last changed, in unix seconds; 0 when no
// client has noted it.
func (p Profile) Updated() int64 {
	return max(p.message.data.unixTime(profileUpdated), p.message.data.unixTime(profileNewUpdated))
}

// SetUpdated notes that name or picture changed, in unix seconds. Clients since
// 2026 do so with every change; it decides which profile others show.
func (p Profile) SetUpdated(at int64) error {
	return p.change(func(t *tree) {
		key := profileUpdated
		if t.root.unixTime(profileNewUpdated) > t.root.unixTime(profileUpdated) {
			key = profileNewUpdated
		}
		t.at().positive(key, at)
	})
}

// Priority is the place of the conversation with oneself in the list: 0 as it
// comes, higher further up, -1 hidden.
func (p Profile) Priority() int64 { return p.message.data.int(profilePriority) }

// SetPriority stores [Profile.Priority].
func (p Profile) SetPriority(n int64) error {
	return p.change(func(t *tree) { t.at().int(profilePriority, n) })
}

// Timer is after how many seconds messages to oneself disappear; 0 = they stay.
func (p Profile) Timer() int64 { return p.message.data.positive(profileTimer) }

// SetTimer stores [Profile.Timer].
func (p Profile) SetTimer(seconds int64) error {
	return p.change(func(t *tree) { t.at().positive(profileTimer, seconds) })
}

// Choice is a setting that may not have been made.
type Choice uint8

// The values of [Choice].
const (
	NotChosen Choice = iota
	No
	Yes
)

// CommunityRequests says whether people who know the owner from a community
// alone may send message requests.
func (p Profile) CommunityRequests() Choice {
	n, ok := p.message.data.Get(profileRequests).Int()
	switch {
	case !ok:
		return NotChosen
	case n == 0:
		return No
	}
	return Yes
}

// SetCommunityRequests stores [Profile.CommunityRequests].
func (p Profile) SetCommunityRequests(c Choice) error {
	return p.change(func(t *tree) {
		switch c {
		case NotChosen:
			t.at().erase(profileRequests)
		case No:
			t.at().alwaysInt(profileRequests, 0) // no is written, unlike a flag
		default:
			t.at().alwaysInt(profileRequests, 1)
		}
	})
}
