"""What a read of files is asked for: format, options, schema; options that nothing knows are refused.

Names and defaults: https://docs.databricks.com/aws/en/ingestion/cloud-object-storage/auto-loader/options and, for the
formats, https://spark.apache.org/docs/latest/sql-data-sources.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lakelet.errors import SourceError, did_you_mean
from lakelet.execution.delta_options import parse_bytes
from lakelet.plan.sources import Leaf

FORMATS = ("json", "csv", "parquet", "orc", "avro", "text", "binaryFile")
TYPED = ("parquet", "orc", "avro")
"""Formats whose files say what their columns are."""
RESCUED = "_rescued_data"
CORRUPT = "_corrupt_record"

_AUTO_LOADER = (
    "format", "inferColumnTypes", "schemaHints", "schemaEvolutionMode", "rescuedDataColumn", "includeExistingFiles",
    "maxFilesPerTrigger", "maxBytesPerTrigger", "allowOverwrites", "partitionColumns", "validateOptions", "cleanSource",
)  # fmt: skip
_AUTO_LOADER_IGNORED = (
    "schemaLocation", "backfillInterval", "useNotifications", "useIncrementalListing", "useManagedFileEvents",
    "useStrictGlobber", "maxFileAge", "fetchParallelism", "pathRewrites", "resourceTag", "region", "queueUrl",
    "listOnStart", "cleanSource.retentionDuration", "includeHiddenFiles",
)  # fmt: skip
"""How a cloud finds new files; here the folder is listed, so they change nothing."""
_GENERIC = (
    "maxFilesPerTrigger", "maxBytesPerTrigger", "pathGlobFilter", "recursiveFileLookup", "modifiedAfter", "modifiedBefore",
    "ignoreCorruptFiles", "ignoreMissingFiles", "rescuedDataColumn", "maxFileAge", "maxCachedFiles", "cleanSource",
    "discardCachedInputRatio", "latestFirst", "fileNameOnly", "path",
)  # fmt: skip
_TEXT = ("mode", "columnNameOfCorruptRecord", "encoding", "charset", "lineSep", "multiLine", "locale", "timeZone",
         "dateFormat", "timestampFormat", "timestampNTZFormat", "samplingRatio", "readerCaseSensitive",
         "badRecordsPath")  # fmt: skip
_BY_FORMAT: Mapping[str, tuple[str, ...]] = {
    "json": (
        *_TEXT, "primitivesAsString", "prefersDecimal", "inferTimestamp", "allowComments", "allowSingleQuotes",
        "allowUnquotedFieldNames", "allowNumericLeadingZeros", "allowBackslashEscapingAnyCharacter",
        "allowUnquotedControlChars", "allowNonNumericNumbers", "dropFieldIfAllNull", "singleVariantColumn",
    ),
    "csv": (
        *_TEXT, "header", "sep", "delimiter", "quote", "escape", "comment", "nullValue", "emptyValue", "nanValue",
        "positiveInf", "negativeInf", "inferSchema", "ignoreLeadingWhiteSpace", "ignoreTrailingWhiteSpace", "maxColumns",
        "maxCharsPerColumn", "enforceSchema", "skipRows", "charToEscapeQuoteEscaping", "unescapedQuoteHandling",
        "mergeSchema", "preferDate", "inputBufferSize",
    ),
    "parquet": ("mergeSchema", "datetimeRebaseMode", "int96RebaseMode", "readerCaseSensitive"),
    "orc": ("mergeSchema",),
    "avro": ("mergeSchema", "datetimeRebaseMode", "ignoreExtension", "avroSchema", "recursiveFieldMaxDepth"),
    "text": ("wholeText", "lineSep", "encoding"),
    "binaryFile": (),
}  # fmt: skip
_REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "cleansource": (("off",), "delete or move files yourself, once they have been read"),
    "latestfirst": (("false",), "leave it out: the oldest files are read first"),
    "filenameonly": (("false",), "leave it out: the whole path identifies a file"),
    "badrecordspath": ((), "leave it out; records that cannot be read go to the rescued data column"),
    "allowcomments": (("false",), "remove the comments from the files"),
    "allowsinglequotes": (("false",), "write JSON with double quotes"),
    "allowunquotedfieldnames": (("false",), "write JSON with quoted names"),
    "allownumericleadingzeros": (("false",), "write JSON numbers without leading zeros"),
    "allowbackslashescapinganycharacter": (("false",), "write valid JSON escapes"),
    "singlevariantcolumn": ((), "read the lines as text: the format `text` gives them as they are"),
    "avroschema": ((), "declare the columns with `.schema(…)`"),
    "recursivefieldmaxdepth": ((), "write the files without types that contain themselves"),
    "ignoreextension": (("true",), "choose files by name with `pathGlobFilter`"),
    "lineSep": ((), "end the lines with a line feed"),
    "datetimerebasemode": (("corrected", "exception"), "write the files with the proleptic calendar"),
    "int96rebasemode": (("corrected", "exception"), "write the files with the proleptic calendar"),
    "timezone": (("utc", "z", "+00:00", "etc/utc"), "write timestamps with their zone; those without one are UTC"),
    "unescapedquotehandling": (("stop_at_delimiter",), "quote the values in the files"),
}
"""Per option, the values that change nothing here, and what to do instead of the others."""
_FLAGS = (
    "infercolumntypes", "includeexistingfiles", "allowoverwrites", "validateoptions", "recursivefilelookup",
    "ignorecorruptfiles", "ignoremissingfiles", "multiline", "header", "wholetext", "inferschema", "infertimestamp",
    "primitivesasstring", "prefersdecimal", "ignoreleadingwhitespace", "ignoretrailingwhitespace", "enforceschema",
)  # fmt: skip
_EVOLUTION = ("addNewColumns", "rescue", "failOnNewColumns", "none")
_MODES = ("PERMISSIVE", "DROPMALFORMED", "FAILFAST")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRead:
    """One read of files, checked.

    Attributes:
        label: the path as the user wrote it.
        path: the same on this machine; may hold wildcards.
        format: of the files, one of `FORMATS`.
        auto_loader: `cloudFiles`, with inference and evolution; otherwise one of Spark's own file sources.
        options: keys in lower case, without `cloudFiles.`.
        schema: what the user declared, as DDL or JSON text; empty where the files decide.
        streaming: every file once; otherwise all that there are.
    """

    label: str
    path: str
    format: str
    auto_loader: bool
    options: Mapping[str, str] = field(default_factory=dict)
    schema: str = ""
    streaming: bool = True

    def flag(self, key: str, default: bool = False) -> bool:
        return self.options.get(key, str(default)).strip().lower() == "true"

    def text(self, key: str, default: str = "") -> str:
        return self.options.get(key, default)

    @property
    def infers(self) -> bool:
        """Whether the columns come from the files."""
        return not self.schema

    @property
    def infers_types(self) -> bool:
        if not self.auto_loader:
            return self.format != "csv" or self.flag("inferschema")
        return self.format in TYPED or self.flag("infercolumntypes")

    @property
    def evolution(self) -> str:
        default = "addNewColumns" if self.infers and self.auto_loader else "none"
        text = self.options.get("schemaevolutionmode", default)
        return next(mode for mode in _EVOLUTION if mode.lower() == text.lower())

    @property
    def rescued_column(self) -> str | None:
        """The column that takes what does not fit, None for none."""
        if self.format not in ("json", "csv", *TYPED):
            return None
        given = self.options.get("rescueddatacolumn")
        inferred = self.auto_loader and (self.infers or self.evolution == "rescue") and self.evolution != "none"
        return given or (RESCUED if inferred else None)

    @property
    def corrupt_column(self) -> str:
        return self.text("columnnameofcorruptrecord", CORRUPT)

    @property
    def mode(self) -> str:
        return self.text("mode", "PERMISSIVE").strip().upper()

    @property
    def max_files(self) -> int | None:
        text = self.options.get("maxfilespertrigger")
        return int(text) if text else 1000 if self.auto_loader else None

    def max_bytes(self, default: int) -> int:
        return parse_bytes(self.options.get("maxbytespertrigger", "")) or default

    @property
    def partition_columns(self) -> tuple[str, ...] | None:
        """The columns that the user takes from paths; None for all that the paths have."""
        text = self.options.get("partitioncolumns")
        if text is None:
            return () if not self.auto_loader and self.flag("recursivefilelookup") else None
        return tuple(name.strip() for name in text.split(",") if name.strip())

    def instant(self, key: str) -> float | None:
        """Return `modifiedAfter` or `modifiedBefore` in seconds since 1970."""
        text = self.options.get(key)
        return None if text is None else _instant(text)


def file_read(leaf: Leaf, path: str) -> FileRead:
    """Return what a leaf over files asks for.

    Raises:
        SourceError: `UNKNOWN_OPTION`, `INVALID_OPTION`, `UNSUPPORTED_OPTION`, `UNSUPPORTED_SOURCE`.
    """
    auto_loader = leaf.format == "cloudfiles"
    prefix = "cloudfiles."
    if auto_loader and f"{prefix}format" not in leaf.options:
        raise SourceError(
            "INVALID_OPTION",
            f"the stream of `{leaf.shown}` does not say which format its files have",
            hint='add `.option("cloudFiles.format", "json")`, or csv, parquet, orc, avro, text, binaryFile',
        )
    text = leaf.options[f"{prefix}format"] if auto_loader else leaf.format
    name = next((known for known in FORMATS if known.lower() == text.strip().lower()), None)
    if name is None:
        near = did_you_mean(text, FORMATS)
        raise SourceError(
            "UNSUPPORTED_SOURCE",
            f"files of format `{text}` cannot be read as a stream",
            cause=f"known formats are {', '.join(FORMATS)}",
            hint=f"did you mean `{near}`?" if near else "write the files as Parquet or JSON",
        )
    read = FileRead(
        label=leaf.shown,
        path=path,
        format=name,
        auto_loader=auto_loader,
        options={key.removeprefix(prefix): value for key, value in leaf.options.items()},
        schema=leaf.schema,
        streaming=leaf.streaming,
    )
    if read.flag("validateoptions", True):
        _refuse_unknown(leaf, name, auto_loader)
    _check_values(read)
    return read


def _refuse_unknown(leaf: Leaf, file_format: str, auto_loader: bool) -> None:
    known = [*_GENERIC, *_BY_FORMAT[file_format]]
    if auto_loader:
        known += [f"cloudFiles.{name}" for name in (*_AUTO_LOADER, *_AUTO_LOADER_IGNORED)]
    folded = {name.lower(): name for name in known}
    ignored = {f"cloudfiles.{name}".lower() for name in _AUTO_LOADER_IGNORED}
    for key in leaf.options:
        if key in folded or key.startswith("cloudfiles.resourcetag."):
            continue
        asked = [name for name in folded if name not in ignored]
        near = did_you_mean(key, asked)
        raise SourceError(
            "UNKNOWN_OPTION",
            f"`{key}` is no option of a stream of {file_format} files",
            cause=f"the options of the format are {', '.join(_BY_FORMAT[file_format]) or 'none'}",
            hint=f"did you mean `{folded[near]}`?" if near else "remove it",
        )


def _check_values(read: FileRead) -> None:
    for key, (harmless, hint) in _REFUSED.items():
        value = read.options.get(key.lower(), "").strip().lower()
        if value and value not in harmless and not (key == "lineSep" and value in ("\n", "\\n")):
            raise SourceError(
                "UNSUPPORTED_OPTION",
                f"the option `{key}` of the files at `{read.label}` is not supported with the value `{value}`",
                hint=hint,
            )
    for key, value in read.options.items():
        problem = _problem(key, value.strip())
        if problem:
            raise SourceError("INVALID_OPTION", f"`{key}` of `{read.label}` is `{value}`", hint=problem)
    if read.schema and read.auto_loader and read.evolution == "addNewColumns":
        raise SourceError(
            "INVALID_OPTION",
            f"the stream of `{read.label}` has a schema and the evolution mode `addNewColumns`",
            cause="a declared schema does not change by itself",
            hint="declare only some columns, with `cloudFiles.schemaHints`, or use the mode `rescue`",
        )


def _problem(key: str, value: str) -> str | None:
    """Return how to write an option whose value is wrong, None if it is right."""
    if key in _FLAGS and value.lower() not in ("true", "false"):
        return 'give "true" or "false"'
    if key == "maxfilespertrigger" and (not value.isdigit() or int(value) == 0):
        return "give a positive number, for example 100"
    if key == "maxbytespertrigger" and not parse_bytes(value):
        return "give a size, for example 64m"
    if key == "schemaevolutionmode" and value.lower() not in {mode.lower() for mode in _EVOLUTION}:
        near = did_you_mean(value, _EVOLUTION)
        return f"did you mean `{near}`?" if near else f"give one of {', '.join(_EVOLUTION)}"
    if key == "mode" and value.upper() not in _MODES:
        near = did_you_mean(value.upper(), _MODES)
        return f"did you mean `{near}`?" if near else f"give one of {', '.join(_MODES)}"
    if key in ("sep", "delimiter") and len(value.replace("\\t", "\t") or "\t") != 1:
        return "give one character"
    if key in ("quote", "escape", "comment") and len(value) > 1:
        return "give one character, or nothing for none"
    if key in ("modifiedafter", "modifiedbefore") and _instant(value) is None:
        return "give a time such as 2026-01-31T00:00:00"
    return None


def _instant(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
