package kingbus.clients;

import com.github.shyiko.mysql.binlog.BinaryLogClient;
import com.github.shyiko.mysql.binlog.event.DeleteRowsEventData;
import com.github.shyiko.mysql.binlog.event.Event;
import com.github.shyiko.mysql.binlog.event.EventData;
import com.github.shyiko.mysql.binlog.event.GtidEventData;
import com.github.shyiko.mysql.binlog.event.MariadbGtidEventData;
import com.github.shyiko.mysql.binlog.event.TableMapEventData;
import com.github.shyiko.mysql.binlog.event.TransactionPayloadEventData;
import com.github.shyiko.mysql.binlog.event.UpdateRowsEventData;
import com.github.shyiko.mysql.binlog.event.WriteRowsEventData;
import com.github.shyiko.mysql.binlog.event.deserialization.EventDeserializer;
import com.github.shyiko.mysql.binlog.network.SSLMode;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.Properties;

/**
 * Reads a binary log with mysql-binlog-connector-java and prints what it has read, one JSON object a line (see
 * ../reading.py). What to read is on standard input, as properties.
 */
public final class BinlogReader {
    private final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    private final Map<Long, TableMapEventData> tables = new HashMap<>();
    private final BinaryLogClient client;
    private final String until;
    private Exception problem;
    private boolean done;

    private BinlogReader(Properties order) {
        until = order.getProperty("until");
        client = new BinaryLogClient(order.getProperty("host"), Integer.parseInt(order.getProperty("port")),
            order.getProperty("user"), order.getProperty("password"));
        client.setServerId(Long.parseLong(order.getProperty("server_id")));
        client.setKeepAlive(false);
        client.setHeartbeatInterval(1000);
        client.setConnectTimeout(60_000); // its own 3 s are too few for a Java that begins on a busy machine
        if (Boolean.parseBoolean(order.getProperty("tls"))) {
            client.setSSLMode(SSLMode.REQUIRED);
        }
        if (Boolean.parseBoolean(order.getProperty("by_gtid"))) {
            client.setGtidSet(order.getProperty("gtids"));
        } else {
            client.setBinlogFilename(order.getProperty("file"));
            client.setBinlogPosition(Long.parseLong(order.getProperty("position")));
        }
        EventDeserializer deserializer = new EventDeserializer();
        deserializer.setCompatibilityMode(EventDeserializer.CompatibilityMode.CHAR_AND_BINARY_AS_BYTE_ARRAY);
        client.setEventDeserializer(deserializer);
        client.registerEventListener(event -> {
            try {
                take(event.getData());
                if (done) {
                    client.disconnect();
                }
            } catch (Exception failure) {
                fail(failure);
            }
        });
        client.registerLifecycleListener(new BinaryLogClient.AbstractLifecycleListener() {
            @Override
            public void onCommunicationFailure(BinaryLogClient from, Exception failure) {
                fail(failure);
            }

            @Override
            public void onEventDeserializationFailure(BinaryLogClient from, Exception failure) {
                fail(failure);
            }
        });
    }

    private void fail(Exception failure) {
        if (done || problem != null) {
            return;
        }
        problem = failure;
        try {
            client.disconnect();
        } catch (IOException late) {
            problem.addSuppressed(late);
        }
    }

    private void take(EventData data) throws Exception {
        if (data instanceof GtidEventData gtid) {
            gtid(gtid.getMySqlGtid().toString());
        } else if (data instanceof MariadbGtidEventData gtid) {
            gtid(gtid.toString());
        } else if (data instanceof TableMapEventData table) {
            tables.put(table.getTableId(), table);
        } else if (data instanceof TransactionPayloadEventData payload) {
            for (Event inner : payload.getUncompressedEvents()) {
                take(inner.getData());
            }
        } else if (data instanceof WriteRowsEventData rows) {
            for (Serializable[] row : rows.getRows()) {
                row(rows.getTableId(), "insert", row);
            }
        } else if (data instanceof DeleteRowsEventData rows) {
            for (Serializable[] row : rows.getRows()) {
                row(rows.getTableId(), "delete", row);
            }
        } else if (data instanceof UpdateRowsEventData rows) {
            for (Map.Entry<Serializable[], Serializable[]> row : rows.getRows()) {
                row(rows.getTableId(), "delete", row.getKey());
                row(rows.getTableId(), "insert", row.getValue());
            }
        }
    }

    private void gtid(String text) {
        out.println("{\"gtid\": " + quoted(text) + "}");
    }

    private void row(long tableId, String action, Serializable[] row) throws Exception {
        TableMapEventData map = tables.get(tableId);
        if (!map.getDatabase().equals("w")) {
            return;
        }
        String shown;
        if (map.getTable().equals("rows_")) {
            shown = text(row[0]) + ", " + text(row[1]) + ", " + text(row[2]);
            done = done || quoted(until).equals(text(row[2]));
        } else if (map.getTable().equals("blobs")) {
            String hash = row[1] == null ? "null" : quoted(
                HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest((byte[]) row[1])));
            shown = text(row[0]) + ", " + hash;
        } else {
            return;
        }
        out.println("{\"table\": " + quoted(map.getTable()) + ", \"op\": \"" + action + "\", \"row\": [" + shown + "]}");
    }

    private static String text(Serializable value) {
        if (value == null) {
            return "null";
        }
        return quoted(value instanceof byte[] bytes ? new String(bytes, StandardCharsets.UTF_8) : value.toString());
    }

    private static String quoted(String text) {
        return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n") + "\"";
    }

    public static void main(String[] arguments) throws Exception {
        Properties order = new Properties();
        order.load(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        BinlogReader reader = new BinlogReader(order);
        reader.client.connect();
        if (reader.done) {
            reader.out.println("{\"end\": true}");
        }
        reader.out.flush();
        if (reader.problem != null) {
            reader.problem.printStackTrace();
        }
        System.exit(reader.done ? 0 : 1);
    }
}
