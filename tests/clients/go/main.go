// Reads a binary log with go-mysql and prints what it has read, one JSON object a line (see ../reading.py).
//
//	reader <<< '{"program": "syncer" | "canal", "host": …, …}'
//
// syncer uses replication.BinlogSyncer alone; canal uses canal.Canal, whose table definitions, which it would ask the
// same server for, come from the server on "schema_port".
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/canal"
	"github.com/go-mysql-org/go-mysql/client"
	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/go-mysql-org/go-mysql/schema"
)

type order struct {
	Program    string `json:"program"`
	Host       string `json:"host"`
	Port       uint16 `json:"port"`
	User       string `json:"user"`
	Password   string `json:"password"`
	Flavor     string `json:"flavor"`
	ServerID   uint32 `json:"server_id"`
	File       string `json:"file"`
	Position   uint32 `json:"position"`
	Gtids      string `json:"gtids"`
	ByGtid     bool   `json:"by_gtid"`
	TLS        bool   `json:"tls"`
	SemiSync   bool   `json:"semi_sync"`
	SchemaPort uint16 `json:"schema_port"`
	Until      string `json:"until"`
}

var errDone = errors.New("the marker was read")

var out = bufio.NewWriter(os.Stdout)

func say(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	out.Write(line)
	out.WriteByte('\n')
}

func text(value any) *string {
	var shown string
	switch typed := value.(type) {
	case nil:
		return nil
	case []byte:
		shown = string(typed)
	default:
		shown = fmt.Sprint(typed)
	}
	return &shown
}

// What is told of a row: of w.rows_ the first three columns, of w.blobs the key and the SHA-256 of the blob.
func shown(table string, row []any) []*string {
	if table == "rows_" {
		return []*string{text(row[0]), text(row[1]), text(row[2])}
	}
	blob := text(row[1])
	if blob != nil {
		sum := sha256.Sum256([]byte(*blob))
		hexadecimal := hex.EncodeToString(sum[:])
		blob = &hexadecimal
	}
	return []*string{text(row[0]), blob}
}

func (o *order) tell(database, table, action string, rows [][]any) bool {
	if database != "w" || (table != "rows_" && table != "blobs") {
		return false
	}
	done := false
	for number, row := range rows {
		switch {
		case action == "update" && number%2 == 0:
			say(map[string]any{"table": table, "op": "delete", "row": shown(table, row)})
		case action == "delete":
			say(map[string]any{"table": table, "op": "delete", "row": shown(table, row)})
		default:
			told := shown(table, row)
			say(map[string]any{"table": table, "op": "insert", "row": told})
			done = done || (table == "rows_" && told[2] != nil && *told[2] == o.Until)
		}
	}
	return done
}

func action(kind replication.EventType) string {
	switch kind {
	case replication.WRITE_ROWS_EVENTv0, replication.WRITE_ROWS_EVENTv1, replication.WRITE_ROWS_EVENTv2,
		replication.MARIADB_WRITE_ROWS_COMPRESSED_EVENT_V1:
		return "insert"
	case replication.DELETE_ROWS_EVENTv0, replication.DELETE_ROWS_EVENTv1, replication.DELETE_ROWS_EVENTv2,
		replication.MARIADB_DELETE_ROWS_COMPRESSED_EVENT_V1:
		return "delete"
	}
	return "update"
}

func (o *order) event(event *replication.BinlogEvent) (bool, error) {
	switch body := event.Event.(type) {
	case *replication.GTIDEvent:
		next, err := body.GTIDNext()
		if err != nil {
			return false, err
		}
		say(map[string]any{"gtid": next.String()})
	case *replication.GtidTaggedLogEvent:
		next, err := body.GTIDEvent.GTIDNext()
		if err != nil {
			return false, err
		}
		said := next.String()
		if body.Tag != "" {
			said = strings.Replace(said, ":", ":"+body.Tag+":", 1)
		}
		say(map[string]any{"gtid": said})
	case *replication.MariadbGTIDEvent:
		say(map[string]any{"gtid": body.GTID.String()})
	case *replication.TransactionPayloadEvent:
		done := false
		for _, inner := range body.Events {
			one, err := o.event(inner)
			if err != nil {
				return false, err
			}
			done = done || one
		}
		return done, nil
	case *replication.RowsEvent:
		return o.tell(string(body.Table.Schema), string(body.Table.Table), action(event.Header.EventType), body.Rows), nil
	case *replication.XIDEvent:
	}
	return false, nil
}

func (o *order) set() (mysql.GTIDSet, error) {
	return mysql.ParseGTIDSet(o.Flavor, o.Gtids)
}

func (o *order) syncer() error {
	config := replication.BinlogSyncerConfig{
		ServerID: o.ServerID, Flavor: o.Flavor, Host: o.Host, Port: o.Port, User: o.User, Password: o.Password,
		SemiSyncEnabled: o.SemiSync, HeartbeatPeriod: time.Second, ReadTimeout: 60 * time.Second, VerifyChecksum: true,
		MaxReconnectAttempts: 3, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if o.TLS {
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	}
	syncer := replication.NewBinlogSyncer(config)
	defer syncer.Close()
	var streamer *replication.BinlogStreamer
	var err error
	if o.ByGtid {
		var set mysql.GTIDSet
		if set, err = o.set(); err != nil {
			return err
		}
		streamer, err = syncer.StartSyncGTID(set)
	} else {
		streamer, err = syncer.StartSync(mysql.Position{Name: o.File, Pos: o.Position})
	}
	if err != nil {
		return err
	}
	for {
		event, err := streamer.GetEvent(context.Background())
		if err != nil {
			return err
		}
		if done, err := o.event(event); done || err != nil {
			return err
		}
	}
}

type handler struct {
	canal.DummyEventHandler
	order  *order
	define func() error
}

// canal forgets what it knows of a table that a statement in the log has made or changed.
func (h *handler) OnTableChanged(*replication.EventHeader, string, string) error {
	return h.define()
}

func (h *handler) OnGTID(_ *replication.EventHeader, gtid mysql.BinlogGTIDEvent) error {
	next, err := gtid.GTIDNext()
	if err != nil {
		return err
	}
	say(map[string]any{"gtid": next.String()})
	return nil
}

func (h *handler) OnRow(rows *canal.RowsEvent) error {
	if h.order.tell(rows.Table.Schema, rows.Table.Name, rows.Action, rows.Rows) {
		return errDone
	}
	return nil
}

func (h *handler) String() string { return "the test's handler" }

func (o *order) canal() error {
	config := canal.NewDefaultConfig()
	config.Addr = fmt.Sprintf("%s:%d", o.Host, o.Port)
	config.User, config.Password, config.Flavor, config.ServerID = o.User, o.Password, o.Flavor, o.ServerID
	config.HeartbeatPeriod, config.ReadTimeout = time.Second, 60*time.Second
	config.Dump.ExecutionPath = ""
	if o.TLS {
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	}
	config.IncludeTableRegex = []string{`^w\.rows_$`, `^w\.blobs$`}
	config.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	reader, err := canal.NewCanal(config)
	if err != nil {
		return err
	}
	definitions, err := client.Connect(fmt.Sprintf("%s:%d", o.Host, o.SchemaPort), "root", "", "w")
	if err != nil {
		return err
	}
	defer definitions.Close()
	define := func() error {
		for _, name := range []string{"rows_", "blobs"} {
			table, err := schema.NewTable(definitions, "w", name)
			if err != nil {
				return err
			}
			reader.SetTableCache([]byte("w"), []byte(name), table)
		}
		return nil
	}
	if err := define(); err != nil {
		return err
	}
	reader.SetEventHandler(&handler{order: o, define: define})
	if o.ByGtid {
		var set mysql.GTIDSet
		if set, err = o.set(); err != nil {
			return err
		}
		err = reader.StartFromGTID(set)
	} else {
		err = reader.RunFrom(mysql.Position{Name: o.File, Pos: o.Position})
	}
	if err != nil && errors.Is(rootCause(err), errDone) {
		return nil
	}
	return err
}

// pingcap's errors wrap with Cause, not Unwrap.
func rootCause(err error) error {
	for {
		wrapped, ok := err.(interface{ Cause() error })
		if !ok || wrapped.Cause() == nil {
			return err
		}
		err = wrapped.Cause()
	}
}

func main() {
	var o order
	input, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(input, &o)
	}
	if err == nil {
		if o.Program == "canal" {
			err = o.canal()
		} else {
			err = o.syncer()
		}
	}
	if err == nil {
		say(map[string]any{"end": true})
	}
	out.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
