package vault

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
)

// RestoreAccount is for the messenger. It is [Vault.CreateAccount] with a seed
// that exists already.
func (v *Vault) RestoreAccount(ctx context.Context, req *api.RestoreAccountRequest) (*api.AccountSeed, error) {
	done, err := v.begin(ctx, api.UIDMessenger)
	if err != nil {
		return nil, err
	}
	defer done()
	defer clear(req.GetSeed())
	pin, err := checkPIN(req.GetPin())
	if err != nil {
		return nil, err
	}
	if n := len(req.GetSeed()); n != AccountSeedSize {
		return nil, status.Errorf(codes.InvalidArgument, "an account seed has %d bytes, not %d", AccountSeedSize, n)
	}
	if err := v.mustBeAbsent(accountFile); err != nil {
		return nil, err
	}
	seed := append([]byte(nil), req.GetSeed()...)
	if err := v.keepAccount(seed, pin); err != nil {
		return nil, err
	}
	v.log.Info("account restored and sealed")
	return &api.AccountSeed{Seed: seed}, nil
}

// ResealAccount is for the messenger. The new blob has been opened with the new
// PIN before it takes the place of the old one, in one step of the file system:
// after a power cut at any moment one of the two PINs opens the account.
//
// The old blob is overwritten, as far as the card allows; one that was copied
// before still opens on this device, with the old PIN.
func (v *Vault) ResealAccount(ctx context.Context, req *api.ResealAccountRequest) (*api.ResealAccountReply, error) {
	done, err := v.begin(ctx, api.UIDMessenger)
	if err != nil {
		return nil, err
	}
	defer done()
	newPIN, err := checkPIN(req.GetNewPin())
	if err != nil {
		return nil, err
	}
	o, err := v.open(req.GetPin(), "PIN not changed")
	if err != nil {
		return nil, err
	}
	defer clear(o.secret)
	a := o.sealedAccount
	if err := v.divide(&a, newPIN, o.otherPIN()); err != nil {
		return nil, err
	}
	if a.blobs[account], err = v.sealer.ResealWithPIN(a.blobs[account], o.pin, newPIN); err != nil {
		return nil, explain("account", err)
	}
	if err := opensAs(o.secret, a.blobs[account], func(b []byte) ([]byte, error) { return v.sealer.UnsealWithPIN(b, newPIN) }); err != nil {
		return nil, doesNotOpen(err)
	}
	if err := v.card.replace(v.path(accountFile), a.marshal()); err != nil {
		return nil, status.Errorf(codes.Internal, "writing the account under its new PIN: %v", err)
	}
	v.log.Info("PIN changed")
	return &api.ResealAccountReply{}, nil
}

// RemoveAccount is for the messenger. First the sealer gives back what it keeps
// for the account, then it revokes it, so that no copy of the card opens it any more,
// then the blob goes: after a power cut in between, the account is there as before and
// can be removed again, or it is gone. The node's key is no part of the account and
// stays.
func (v *Vault) RemoveAccount(ctx context.Context, req *api.RemoveAccountRequest) (*api.RemoveAccountReply, error) {
	done, err := v.begin(ctx, api.UIDMessenger)
	if err != nil {
		return nil, err
	}
	defer done()
	pin, err := checkPIN(req.GetPin())
	if err != nil {
		return nil, err
	}
	o, err := v.open(pin, "account not removed")
	switch status.Code(err) {
	case codes.OK:
		clear(o.secret)
		if err := v.sealer.Release(o.blobs[account], o.pin); err != nil {
			err = explain("account", err)
			v.refused("account not removed", err)
			return nil, err
		}
		// First here, then in the sealer, so that no step in between looks like an
		// account: the stand-in goes, and then two generations, that of the account
		// and that for which its stand-in was sealed.
		if err := v.card.replace(v.path(accountFile), sealedAccount{blobs: [3][]byte{account: o.blobs[account]}}.marshal()); err != nil {
			return nil, status.Errorf(codes.Internal, "removing the account: %v", err)
		}
		for range 2 {
			if err := v.sealer.Revoke(true); err != nil {
				return nil, status.Errorf(codes.Internal, "removing the account: %v", err)
			}
		}
	case codes.FailedPrecondition:
		// Nobody will ever open it here, so there is nothing that the PIN guards.
		v.log.Warn("removing an account that does not open on this device", "reason", status.Convert(err).Message())
	default:
		return nil, err
	}
	if err := v.card.destroy(v.path(accountFile)); err != nil {
		return nil, status.Errorf(codes.Internal, "removing the account: %v", err)
	}
	v.settled = false
	v.log.Info("account removed")
	return &api.RemoveAccountReply{}, nil
}
