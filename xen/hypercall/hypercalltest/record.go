package hypercalltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// WriteRecord writes a record as text: each exchange as JSON on a line of its own.
func WriteRecord(w io.Writer, record []Exchange) error {
	enc := json.NewEncoder(w)
	for i := range record {
		if err := enc.Encode(&record[i]); err != nil {
			return fmt.Errorf("hypercalltest: writing exchange %d: %w", i, err)
		}
	}
	return nil
}

// ReadRecord reads what WriteRecord wrote, to the end.
func ReadRecord(r io.Reader) ([]Exchange, error) {
	var record []Exchange
	dec := json.NewDecoder(r)
	for {
		var e Exchange
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) {
			return record, nil
		}
		if err != nil {
			return record, fmt.Errorf("hypercalltest: reading exchange %d: %w", len(record), err)
		}
		record = append(record, e)
	}
}
