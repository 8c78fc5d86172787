package config

// The keys of a group's info, by the letters of libsession-util's
// groups/info.hpp.
const (
	infoName        = "n"
	infoDescription = "o"
	infoURL         = "p"
	infoKey         = "q"
	infoCreated     = "c"
	infoTimer       = "E"
	infoBefore      = "d"
	infoFilesBefore = "D"
	infoDestroyed   = "!"
)

// Info is the view of a [GroupInfo]. Changes by a member who is no admin are
// [ErrReadOnly].
type Info struct{ *Object }

// Name is the group's name.
func (i Info) Name() string { return i.message.data.text(infoName) }

// SetName stores the name. Errors: [ErrValue] above [MaxName] bytes.
func (i Info) SetName(name string) error {
	if err := checkLength("group name", name, MaxName); err != nil {
		return err
	}
	return i.change(func(t *tree) { t.at().text(infoName, name) })
}

// Description is a longer text about the group.
func (i Info) Description() string { return i.message.data.text(infoDescription) }

// SetDescription stores the description. Errors: [ErrValue] above
// [MaxDescription] bytes.
func (i Info) SetDescription(s string) error {
	if err := checkLength("group description", s, MaxDescription); err != nil {
		return err
	}
	return i.change(func(t *tree) { t.at().text(infoDescription, s) })
}

// Picture is the group's picture.
func (i Info) Picture() Picture { return i.message.data.picture(infoURL, infoKey) }

// SetPicture stores another picture; an empty one removes it. Errors:
// [ErrValue] for an address above [MaxPictureURL] bytes.
func (i Info) SetPicture(p Picture) error {
	if err := checkLength("picture address", p.URL, MaxPictureURL); err != nil {
		return err
	}
	return i.change(func(t *tree) { t.at().picture(infoURL, infoKey, p) })
}

// Created is when the group was made, in unix seconds; 0 = unknown.
func (i Info) Created() int64 { return i.message.data.unixTime(infoCreated) }

// SetCreated stores [Info.Created].
func (i Info) SetCreated(at int64) error { return i.setPositive(infoCreated, at) }

// Timer is how many seconds after they were sent messages disappear; 0 = they
// stay.
func (i Info) Timer() int64 { return i.message.data.positive(infoTimer) }

// SetTimer stores [Info.Timer].
func (i Info) SetTimer(seconds int64) error { return i.setPositive(infoTimer, seconds) }

// DeleteBefore asks members to delete messages that were sent before that time,
// in unix seconds; 0 = none.
func (i Info) DeleteBefore() int64 { return i.message.data.unixTime(infoBefore) }

// SetDeleteBefore stores [Info.DeleteBefore].
func (i Info) SetDeleteBefore(at int64) error { return i.setPositive(infoBefore, at) }

// DeleteFilesBefore is [Info.DeleteBefore] for attachments.
func (i Info) DeleteFilesBefore() int64 { return i.message.data.unixTime(infoFilesBefore) }

// SetDeleteFilesBefore stores [Info.DeleteFilesBefore].
func (i Info) SetDeleteFilesBefore(at int64) error { return i.setPositive(infoFilesBefore, at) }

// Destroyed reports that an admin has ended the group: whoever reads it removes
// the group.
func (i Info) Destroyed() bool { return i.message.data.flag(infoDestroyed) }

// Destroy ends the group for everybody.
func (i Info) Destroy() error {
	return i.change(func(t *tree) { t.at().flag(infoDestroyed, true) })
}

func (i Info) setPositive(key string, n int64) error {
	return i.change(func(t *tree) { t.at().positive(key, n) })
}
