package kingbus.clients;

import io.debezium.embedded.Connect;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.RecordChangeEvent;
import io.debezium.engine.format.ChangeEventFormat;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.source.SourceRecord;

/**
 * Runs Debezium's embedded engine with the connector's own properties, which are on standard input, and prints what it
 * has read, one JSON object a line (see ../reading.py). The property "until" is the text that ends it; but as long as an
 * offset says that it is one of a snapshot, it goes on: who stops there begins the snapshot anew at the next start.
 */
public final class DebeziumReader {
    private final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    private final String until;
    private boolean found;
    private volatile boolean done;
    private Throwable problem;
    private String lastGtid = "";

    private DebeziumReader(String until) {
        this.until = until;
    }

    private void take(SourceRecord record) throws Exception {
        if (!(record.value() instanceof Struct value) || value.schema().field("source") == null
            || value.schema().field("op") == null) {
            return; // a change of schema
        }
        Struct source = value.getStruct("source");
        String table = source.getString("table");
        Object gtid = source.schema().field("gtid") == null ? null : source.get("gtid");
        if (gtid != null && !gtid.equals(lastGtid)) {
            lastGtid = gtid.toString();
            out.println("{\"gtid\": " + quoted(lastGtid) + "}");
        }
        if (value.getStruct("before") != null) {
            row(table, "delete", value.getStruct("before"));
        }
        if (value.getStruct("after") != null) {
            row(table, "insert", value.getStruct("after"));
        }
    }

    private void row(String table, String action, Struct row) throws Exception {
        String shown;
        if (table.equals("rows_")) {
            shown = text(row.get("id")) + ", " + text(row.get("n")) + ", " + text(row.get("t"));
            found = found || until.equals(row.get("t"));
        } else if (table.equals("blobs")) {
            Object blob = row.get("b");
            String hash = "null";
            if (blob != null) {
                byte[] bytes = blob instanceof ByteBuffer buffer ? new byte[buffer.remaining()] : (byte[]) blob;
                if (blob instanceof ByteBuffer buffer) {
                    buffer.duplicate().get(bytes);
                }
                hash = quoted(HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes)));
            }
            shown = text(row.get("id")) + ", " + hash;
        } else {
            return;
        }
        out.println("{\"table\": " + quoted(table) + ", \"op\": \"" + action + "\", \"row\": [" + shown + "]}");
    }

    private static String text(Object value) {
        return value == null ? "null" : quoted(value.toString());
    }

    private static String quoted(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
    }

    private void run(Properties properties) throws Exception {
        DebeziumEngine<RecordChangeEvent<SourceRecord>> engine = DebeziumEngine
            .create(ChangeEventFormat.of(Connect.class))
            .using(properties)
            .using((success, message, error) -> {
                if (!success && !done) {
                    problem = error == null ? new IllegalStateException(message) : error;
                }
            })
            .notifying((List<RecordChangeEvent<SourceRecord>> records,
                DebeziumEngine.RecordCommitter<RecordChangeEvent<SourceRecord>> committer) -> {
                boolean snapshot = false;
                for (RecordChangeEvent<SourceRecord> record : records) {
                    try {
                        take(record.record());
                    } catch (Exception failure) {
                        throw new IllegalStateException(failure);
                    }
                    committer.markProcessed(record);
                    snapshot = record.record().sourceOffset().containsKey("snapshot");
                }
                committer.markBatchFinished(); // stores the offset: see offset.flush.interval.ms
                done = done || found && !snapshot;
            })
            .build();
        Thread thread = new Thread(engine);
        thread.start();
        while (!done && thread.isAlive()) {
            thread.join(100);
        }
        engine.close();
        thread.join();
    }

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.load(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        DebeziumReader reader = new DebeziumReader((String) properties.remove("until"));
        reader.run(properties);
        if (reader.done) {
            reader.out.println("{\"end\": true}");
        }
        reader.out.flush();
        if (reader.problem != null && !reader.done) {
            reader.problem.printStackTrace();
        }
        System.exit(reader.done ? 0 : 1);
    }
}
