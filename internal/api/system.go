package api

import (
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Nothing is ever sealed here. To clients that ask for it, "sealed" means what they
// want to know: whether the hub can do its work.
func (a *API) sealed() bool { return a.health != nil && !a.health.Report().Ready }

// sysHealth serves sys/health. The status is 200, or 503 when the hub is not ready,
// unless the query names others, as clients and load balancers do.
func (a *API) sysHealth(c *call) (*reply, error) {
	codes := map[string]int{"activecode": http.StatusOK, "sealedcode": http.StatusServiceUnavailable}
	for name := range codes {
		code, err := statusCode(c.r.URL.Query(), name, codes[name])
		if err != nil {
			return nil, err
		}
		codes[name] = code
	}
	sealed, status := a.sealed(), codes["activecode"]
	if sealed {
		status = codes["sealedcode"]
	}
	return &reply{status: status, bare: struct {
		Initialized        bool   `json:"initialized"`
		Sealed             bool   `json:"sealed"`
		Standby            bool   `json:"standby"`
		PerformanceStandby bool   `json:"performance_standby"`
		PerformanceMode    string `json:"replication_performance_mode"`
		DRMode             string `json:"replication_dr_mode"`
		ServerTime         int64  `json:"server_time_utc"`
		Version            string `json:"version"`
		Enterprise         bool   `json:"enterprise"`
		EchoMilliseconds   int    `json:"echo_duration_ms"`
		SkewMilliseconds   int    `json:"clock_skew_ms"`
		CanaryMilliseconds int    `json:"replication_primary_canary_age_ms"`
	}{Initialized: true, Sealed: sealed, PerformanceMode: "disabled", DRMode: "disabled",
		ServerTime: time.Now().Unix(), Version: a.version}}, nil
}

// statusCode returns the status that a client wants, from 200 to 599.
func statusCode(query url.Values, name string, otherwise int) (int, error) {
	raw := query.Get(name)
	if raw == "" {
		return otherwise, nil
	}
	code, err := strconv.Atoi(raw)
	if err != nil || code < 200 || code > 599 {
		return 0, badRequest("invalid parameter %s: %.40q is no status from 200 to 599", name, raw)
	}
	return code, nil
}

// sealStatus serves sys/seal-status: one share of one, so that clients find nothing
// missing.
func (a *API) sealStatus(*call) (*reply, error) {
	return &reply{bare: struct {
		Type         string `json:"type"`
		Initialized  bool   `json:"initialized"`
		Sealed       bool   `json:"sealed"`
		Threshold    int    `json:"t"`
		Shares       int    `json:"n"`
		Progress     int    `json:"progress"`
		Nonce        string `json:"nonce"`
		Version      string `json:"version"`
		BuildDate    string `json:"build_date"`
		Migration    bool   `json:"migration"`
		RecoverySeal bool   `json:"recovery_seal"`
		StorageType  string `json:"storage_type"`
	}{Type: "none", Initialized: true, Sealed: a.sealed(), Threshold: 1, Shares: 1, Version: a.version, StorageType: "jetstream"}}, nil
}

// leader serves sys/leader: a single node has none.
func (a *API) leader(*call) (*reply, error) {
	return &reply{bare: struct {
		HAEnabled            bool      `json:"ha_enabled"`
		IsSelf               bool      `json:"is_self"`
		ActiveTime           time.Time `json:"active_time"`
		LeaderAddress        string    `json:"leader_address"`
		LeaderClusterAddress string    `json:"leader_cluster_address"`
		PerformanceStandby   bool      `json:"performance_standby"`
		LastRemoteWAL        uint64    `json:"performance_standby_last_remote_wal"`
	}{}}, nil
}

func (a *API) initialized(*call) (*reply, error) {
	return &reply{bare: map[string]bool{"initialized": true}}, nil
}

func (a *API) initialize(*call) (*reply, error) {
	return nil, badRequest("the hub needs no initialization; its root token is in its configuration")
}

// experiments tells clients of Vault from before event notifications were stable that
// they are there.
func (a *API) experiments(*call) (*reply, error) {
	names := []string{"events.alpha1"}
	return &reply{data: map[string]any{"available": names, "enabled": names}}, nil
}
