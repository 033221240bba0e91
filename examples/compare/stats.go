package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// stat is one statistic of the cluster on both paths; nil means that it does not exist.
type stat struct {
	Name    string  `json:"name"`
	Library *uint64 `json:"library"`
	Sidecar *uint64 `json:"sidecar"`
}

// compareStats returns the statistics that are not 0 on both paths, sorted by name.
func compareStats(library, sidecar map[string]uint64) []stat {
	names := maps.Clone(library)
	maps.Copy(names, sidecar)
	all := []stat{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s := stat{name, valueOf(library, name), valueOf(sidecar, name)}
		if library[name] != 0 || sidecar[name] != 0 {
			all = append(all, s)
		}
	}
	return all
}

func valueOf(stats map[string]uint64, name string) *uint64 {
	if n, ok := stats[name]; ok {
		return &n
	}
	return nil
}

// statsPage is the path of a cluster's statistics, for the library and for Envoy.
func statsPage(cluster string) string {
	return "/stats?format=json&histogram_buckets=cumulative&filter=" +
		url.QueryEscape("^cluster\\."+regexp.QuoteMeta(cluster)+"\\.")
}

// readStats reads such a page. It removes the cluster from the names; the value of a
// histogram is the number of its values.
func readStats(cluster string, page io.Reader) (map[string]uint64, error) {
	type histogram struct {
		Name    string `json:"name"`
		Buckets []struct {
			Cumulative uint64 `json:"cumulative"`
		} `json:"buckets"`
	}
	var all struct {
		Stats []struct {
			Name       string          `json:"name"`
			Value      uint64          `json:"value"`
			Histograms json.RawMessage `json:"histograms"`
		} `json:"stats"`
	}
	if err := json.NewDecoder(page).Decode(&all); err != nil {
		return nil, fmt.Errorf("compare: statistics: %w", err)
	}
	values, prefix := map[string]uint64{}, "cluster."+cluster+"."
	for _, s := range all.Stats {
		if s.Histograms == nil {
			values[strings.TrimPrefix(s.Name, prefix)] = s.Value
			continue
		}
		var histograms []histogram
		if err := json.Unmarshal(s.Histograms, &histograms); err != nil {
			return nil, fmt.Errorf("compare: histograms: %w", err)
		}
		for _, h := range histograms {
			if n := len(h.Buckets); n != 0 {
				values[strings.TrimPrefix(h.Name, prefix)+" (count)"] = h.Buckets[n-1].Cumulative
			}
		}
	}
	return values, nil
}

// stats reads a cluster's statistics from Envoy.
func (e *sidecar) stats(ctx context.Context, cluster string) (map[string]uint64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.admin+statsPage(cluster), nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return readStats(cluster, resp.Body)
}

// settled reads statistics until they no longer change: histograms are late.
func settled(ctx context.Context, read func() (map[string]uint64, error)) (map[string]uint64, error) {
	var last map[string]uint64
	for range 20 {
		stats, err := read()
		if err != nil || maps.Equal(stats, last) {
			return stats, err
		}
		last = stats
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
	return last, nil
}
