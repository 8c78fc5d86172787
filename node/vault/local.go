package vault

import (
	"context"
	"os"

	"google.golang.org/grpc"

	"hearth/node/api"
)

// Client calls the vault from within its own process, for programs that are
// vault and messenger in one. Call options are ignored.
func (v *Vault) Client() api.VaultClient { return localClient{v} }

type localClient struct{ v *Vault }

// self makes the calls those of this process's own user.
func self(ctx context.Context) context.Context {
	return api.WithCaller(ctx, api.Caller{PID: int32(os.Getpid()), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
}

func (c localClient) Status(ctx context.Context, r *api.VaultStatusRequest, _ ...grpc.CallOption) (*api.VaultStatus, error) {
	return c.v.Status(self(ctx), r)
}

func (c localClient) CreateAccount(ctx context.Context, r *api.CreateAccountRequest, _ ...grpc.CallOption) (*api.AccountSeed, error) {
	return c.v.CreateAccount(self(ctx), r)
}

func (c localClient) OpenAccount(ctx context.Context, r *api.OpenAccountRequest, _ ...grpc.CallOption) (*api.AccountSeed, error) {
	return c.v.OpenAccount(self(ctx), r)
}

func (c localClient) NodeSeed(ctx context.Context, r *api.NodeSeedRequest, _ ...grpc.CallOption) (*api.NodeSeedReply, error) {
	return c.v.NodeSeed(self(ctx), r)
}

func (c localClient) RestoreAccount(ctx context.Context, r *api.RestoreAccountRequest, _ ...grpc.CallOption) (*api.AccountSeed, error) {
	return c.v.RestoreAccount(self(ctx), r)
}

func (c localClient) ResealAccount(ctx context.Context, r *api.ResealAccountRequest, _ ...grpc.CallOption) (*api.ResealAccountReply, error) {
	return c.v.ResealAccount(self(ctx), r)
}

func (c localClient) RemoveAccount(ctx context.Context, r *api.RemoveAccountRequest, _ ...grpc.CallOption) (*api.RemoveAccountReply, error) {
	return c.v.RemoveAccount(self(ctx), r)
}

func (c localClient) SealDuress(ctx context.Context, r *api.SealDuressRequest, _ ...grpc.CallOption) (*api.SealDuressReply, error) {
	return c.v.SealDuress(self(ctx), r)
}
