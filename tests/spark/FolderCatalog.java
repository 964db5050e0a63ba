import java.util.*;
import org.apache.iceberg.Schema;
import org.apache.iceberg.catalog.Namespace;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.hadoop.HadoopCatalog;
import org.apache.iceberg.spark.Spark3Util;
import org.apache.iceberg.spark.SparkSchemaUtil;
import org.apache.iceberg.spark.source.SparkTable;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.catalyst.analysis.*;
import org.apache.spark.sql.connector.catalog.*;
import org.apache.spark.sql.connector.expressions.Transform;
import org.apache.spark.sql.util.CaseInsensitiveStringMap;

/** Iceberg tables in a folder. It has no views: the class of those in the Iceberg runtime for Spark 4.1 does not load under 4.3. */
public class FolderCatalog implements TableCatalog, SupportsNamespaces {
  private HadoopCatalog inner;
  private String name;
  public void initialize(String name, CaseInsensitiveStringMap options) {
    this.name = name;
    inner = new HadoopCatalog(new org.apache.hadoop.conf.Configuration(), options.get("warehouse"));
  }
  private TableIdentifier id(Identifier i) { return TableIdentifier.of(Namespace.of(i.namespace()), i.name()); }
  private Table table(org.apache.iceberg.Table t) { return new SparkTable(t); }
  public String name() { return name; }
  public Identifier[] listTables(String[] ns) {
    return inner.listTables(Namespace.of(ns)).stream().map(i -> Identifier.of(i.namespace().levels(), i.name())).toArray(Identifier[]::new);
  }
  public Table loadTable(Identifier i) throws NoSuchTableException {
    try { return table(inner.loadTable(id(i))); } catch (org.apache.iceberg.exceptions.NoSuchTableException e) { throw new NoSuchTableException(i); }
  }
  public Table createTable(Identifier i, Column[] columns, Transform[] parts, Map<String, String> p) {
    Schema schema = SparkSchemaUtil.convert(CatalogV2Util.v2ColumnsToStructType(columns));
    Map<String, String> props = new HashMap<>(p);
    props.put("format-version", "2"); props.put("write.merge.mode", "copy-on-write");
    props.remove("provider"); props.remove("owner");
    return table(inner.createTable(id(i), schema, org.apache.iceberg.PartitionSpec.unpartitioned(), props));
  }
  public Table alterTable(Identifier i, TableChange... changes) throws NoSuchTableException {
    org.apache.iceberg.Table t = inner.loadTable(id(i));
    List<TableChange> columns = new ArrayList<>();
    for (TableChange c : changes) {
      if (c instanceof TableChange.SetProperty) { TableChange.SetProperty s = (TableChange.SetProperty) c; t.updateProperties().set(s.property(), s.value()).commit(); }
      else if (c instanceof TableChange.RemoveProperty) { t.updateProperties().remove(((TableChange.RemoveProperty) c).property()).commit(); }
      else columns.add(c);
    }
    if (!columns.isEmpty()) Spark3Util.applySchemaChanges(t.updateSchema(), columns).commit();
    return loadTable(i);
  }
  public boolean dropTable(Identifier i) { return inner.dropTable(id(i)); }
  public void renameTable(Identifier a, Identifier b) { throw new UnsupportedOperationException(); }
  public String[] defaultNamespace() { return new String[] {"default"}; }
  public String[][] listNamespaces() { return new String[][] {{"default"}}; }
  public String[][] listNamespaces(String[] ns) { return new String[0][]; }
  public Map<String, String> loadNamespaceMetadata(String[] ns) { return new HashMap<>(); }
  public void createNamespace(String[] ns, Map<String, String> m) {}
  public void alterNamespace(String[] ns, NamespaceChange... c) {}
  public boolean dropNamespace(String[] ns, boolean cascade) { return false; }
}
