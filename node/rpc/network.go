package rpc

import (
	"encoding/json"
)

func parseInfo(*params) (work, error) {
	return func(c *call) wait {
		v := c.cfg.Version
		r := c.answer(statusOK, map[string]any{"version": []any{v[0], v[1], v[2]}, "timestamp": c.now})
		return func() Response { return r }
	}, nil
}

// parseGetSwarm reads a request for the members of an account's swarm, which
// every node answers for every account.
func parseGetSwarm(p *params) (work, error) {
	var who credentials
	alias, hasAlias := p.text("pubKey")
	pubkey, hasPubkey := p.text("pubkey")
	switch {
	case p.err != nil:
		return nil, p.err
	case hasAlias && hasPubkey:
		return nil, refusal("Cannot specify both 'pubkey' and 'pubKey'")
	case hasAlias:
		pubkey = alias
	}
	if err := who.loadOwner(pubkey, hasAlias || hasPubkey, "Pubkey must be 66 hex digits/33 bytes long"); err != nil {
		return nil, err
	}
	return func(c *call) wait {
		r := c.answer(statusOK, describe(c.list.Of(who.owner)))
		return func() Response { return r }
	}, nil
}

// parseActiveNodes reads a request for the binary list, with which newer clients
// keep their node list fresh. They send the parameters of get_service_nodes along,
// which change nothing.
func parseActiveNodes(*params) (work, error) {
	return func(c *call) wait { return done(statusOK, Binary(c.list.Records())) }, nil
}

// ledgerEndpoint is that of our own ledger (package hearth/node/ledger/light).
const ledgerEndpoint = "hearth_ledger"

// parseOxendRequest reads a request to the chain daemon. Of the two endpoints
// that upstream passes on, this node answers get_service_nodes: clients keep
// their node list fresh with it.
func parseOxendRequest(p *params) (work, error) {
	endpoint, ok := p.text("endpoint")
	switch {
	case p.err != nil:
		return nil, p.err
	case !ok:
		return nil, missing("endpoint")
	case endpoint == ledgerEndpoint:
		arguments := p.value("params")
		return func(c *call) wait {
			if c.cfg.Ledger == nil {
				return done(statusBad, ledgerEndpoint+" is not available here")
			}
			result, err := c.cfg.Ledger(arguments)
			if err != nil {
				return done(statusBad, err.Error())
			}
			r := c.answer(statusOK, map[string]any{"result": result})
			return func() Response { return r }
		}, nil
	case endpoint != "get_service_nodes":
		return nil, refusal("Invalid oxend endpoint '" + endpoint + "'")
	}
	arguments := p.value("params")
	return func(c *call) wait {
		if c.cfg.ServiceNodes == nil {
			return done(statusBad, "get_service_nodes is not available here")
		}
		result, err := c.cfg.ServiceNodes(arguments)
		if err != nil {
			return done(statusBad, err.Error())
		}
		if !json.Valid(result) {
			return done(statusBadDaemon, "oxend returned unparsable data")
		}
		r := c.answer(statusOK, map[string]any{"result": result})
		return func() Response { return r }
	}, nil
}
