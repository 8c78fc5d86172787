package messenger

import (
	"context"
	"encoding/hex"
	"strings"

	"hearth/node/api"
	"hearth/node/config"
)

// Devices lists the devices of the account that have said that they are, in a
// config which only devices of this program know. Which of them came without the
// owner having looked at this list is told once. Errors: [ErrDisk].
//
// A device that is not in the list may still have the account: whoever knows the
// recovery phrase does. None can be locked out; that takes another protocol.
func (m *Messenger) Devices(ctx context.Context, _ *api.DevicesRequest) (*api.DevicesReply, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	list, own, fresh, err := s.archive.Devices(true)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	reply := &api.DevicesReply{}
	for _, d := range list {
		reply.Devices = append(reply.Devices, apiDevice(d, own, fresh[d.ID]))
	}
	m.publishState()
	return reply, nil
}

// RenameDevice calls this device something else, for the owner's devices to see.
// Errors: [ErrName], [ErrDisk].
func (m *Messenger) RenameDevice(ctx context.Context, req *api.RenameDeviceRequest) (*api.AccountDevice, error) {
	s, _, done, err := m.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	name := strings.TrimSpace(req.GetName())
	if name == "" || !validName(name) || tidyName(name) != name {
		return nil, ErrName
	}
	_, kind := s.deviceName()
	if err := s.archive.RenameDevice(name, kind); err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	list, own, fresh, err := s.archive.Devices(false)
	if err != nil {
		return nil, forCaller(ErrDisk, err)
	}
	for _, d := range list {
		if d.ID == own {
			return apiDevice(d, own, fresh[d.ID]), nil
		}
	}
	return &api.AccountDevice{Name: name, Own: true}, nil
}

const millisecondsOfDay = 24 * 60 * 60 * 1000

func apiDevice(d config.Device, own [32]byte, fresh bool) *api.AccountDevice {
	return &api.AccountDevice{
		Id:        hex.EncodeToString(d.ID[:]),
		Name:      d.Name,
		Kind:      d.Kind,
		FirstSeen: dayTime(d.First),
		LastSeen:  dayTime(d.Last),
		Own:       d.ID == own,
		Fresh:     fresh,
	}
}

// dayTime is the beginning of a day in ms; a day before 1970 or after 9999 is none.
func dayTime(day int64) int64 {
	if day < 0 || day > 2_932_896 {
		return 0
	}
	return day * millisecondsOfDay
}
