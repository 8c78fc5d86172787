package boot

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/initramfs/journal"
	"hearth/initramfs/supervise"
	"hearth/node/api"
)

// device is the Device interface: what PID 1 runs, what was said, and power.
type device struct {
	api.UnimplementedDeviceServer

	log       *journal.Journal
	services  *supervise.Supervisor
	powerOff  func(restart bool)
	revoke    func() error // makes all keys unusable
	wipe      func()       // removes what they opened, and restarts
	developer atomic.Bool

	mu      sync.Mutex
	address string
	data    string
	stages  []StageState
}

func newDevice(log *journal.Journal, services *supervise.Supervisor) *device {
	return &device{log: log, services: services}
}

// serve opens the socket for the panel and the console.
func (d *device) serve(background *tasks) error {
	callers := []uint32{api.UIDPanel, api.UIDConsole}
	l, err := api.Listen(socket("device"), callers...)
	if err != nil {
		return err
	}
	server := api.NewServer(callers...)
	api.RegisterDeviceServer(server, d)
	background.Go(func(ctx context.Context) {
		context.AfterFunc(ctx, server.Stop)
		if err := server.Serve(l); err != nil {
			d.log.Say("device", "%v", err)
		}
	})
	return nil
}

func (d *device) setAddress(ip string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.address = ip
	if ip != "" { // came late, but came
		for i := range d.stages {
			if d.stages[i].Name == "network" {
				d.stages[i].Trouble = ""
			}
		}
	}
}

// setData tells how the data is kept.
func (d *device) setData(m mounted) {
	text := "NOT encrypted"
	if m.cipher != "" {
		text = "encrypted (" + m.cipher + "), opened by the TPM"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = text
}

// setTrouble tells what has become of a stage after its end.
func (d *device) setTrouble(stage, trouble string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.stages {
		if d.stages[i].Name == stage {
			d.stages[i].Trouble = trouble
		}
	}
}

func (d *device) setStage(s StageState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.stages {
		if d.stages[i].Name == s.Name {
			d.stages[i] = s
			return
		}
	}
	d.stages = append(d.stages, s)
}

// Status implements [api.DeviceServer].
func (d *device) Status(context.Context, *api.DeviceStatusRequest) (*api.DeviceStatus, error) {
	reply := &api.DeviceStatus{
		Version:   Version,
		Board:     board(),
		UptimeMs:  uint64(Uptime().Milliseconds()),
		Developer: d.developer.Load(),
	}
	d.mu.Lock()
	reply.Address, reply.Data = d.address, d.data
	for _, s := range d.stages {
		reply.Stages = append(reply.Stages, &api.Stage{Name: s.Name, DoneMs: uint64(s.Done.Milliseconds()), Trouble: s.Trouble})
	}
	d.mu.Unlock()
	self := supervise.Status{Name: "init", PID: os.Getpid()}
	for _, s := range append([]supervise.Status{self}, d.services.Status()...) {
		service := &api.Service{Name: s.Name, Pid: int32(s.PID), Restarts: s.Restarts, Trouble: s.Trouble}
		if s.PID != 0 {
			// A process that has just ended has no memory to report.
			service.MemoryKib, _ = supervise.Memory(s.PID)
		}
		reply.Services = append(reply.Services, service)
	}
	return reply, nil
}

// Logs implements [api.DeviceServer].
func (d *device) Logs(_ context.Context, r *api.LogsRequest) (*api.LogsReply, error) {
	n := int(min(r.GetLines(), 1000))
	if n == 0 {
		n = 50
	}
	return &api.LogsReply{Lines: d.log.Last(n)}, nil
}

// Follow implements [api.DeviceServer]. Whoever follows takes the serial line over
// from PID 1, so only the console may.
func (d *device) Follow(stream grpc.BidiStreamingServer[api.FollowRequest, api.LogLine]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	if who, ok := api.CallerOf(ctx); !ok || who.UID != api.UIDConsole {
		return status.Error(codes.PermissionDenied, "only the console shows the log")
	}
	follower, err := d.log.Follow(ctx)
	if err != nil {
		return status.FromContextError(err).Err()
	}
	defer follower.Close()
	if err := stream.SendHeader(nil); err != nil { // tells that the line is free
		return err
	}
	go func() { // ends with the stream, and that when this function returns
		defer cancel()
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
			follower.Shown()
		}
	}()
	for {
		line, err := follower.Next(ctx)
		if errors.Is(err, journal.ErrReplaced) {
			return status.Error(codes.Aborted, err.Error())
		}
		if err != nil {
			return nil
		}
		if err := stream.Send(&api.LogLine{Text: line}); err != nil {
			return err
		}
	}
}

// PowerOff implements [api.DeviceServer]. The answer leaves before the caller is
// stopped along with everything else.
func (d *device) PowerOff(ctx context.Context, r *api.PowerOffRequest) (*api.PowerOffReply, error) {
	who, _ := api.CallerOf(ctx)
	d.log.Say("power", "asked for by user %d", who.UID)
	go d.powerOff(r.GetRestart())
	return &api.PowerOffReply{}, nil
}

// board names the machine as its firmware does.
func board() string {
	for _, path := range []string{"/sys/firmware/devicetree/base/model", "/sys/class/dmi/id/product_name"} {
		if text, err := os.ReadFile(path); err == nil {
			return strings.Trim(string(text), "\x00\n ")
		}
	}
	return "unknown"
}
