"""The taxonomy holds the survey's tree, and a mistake in the file is reported where it stands."""

import pytest

from longatlas import LongAtlasError, UnknownNameError
from longatlas.slots import SLOTS
from longatlas.taxonomy import load_taxonomy, taxonomy_path

LEAVES = {
    "efficient_attention": """local/block_wise local/sliding_window local/global_local_hybrid local/lsh
        hierarchical/two_level hierarchical/multi_level sparse/fixed_patterns sparse/adaptive_patterns sparse/graph
        approximated/low_rank approximated/nested approximated/kernelized approximated/sparse_kernelized_hybrid
        io_aware/memory_efficient io_aware/flash io_aware/paged io_aware/lightning""",
    "long_term_memory": """internal_cache/segment_recurrence internal_cache/retrospective_recurrence
        internal_cache/continuous_signal internal_cache/compressive_memory internal_cache/alternate_designs
        external_bank/cosine_retrieval external_bank/heuristic_retrieval external_bank/learnable_retrieval""",
    "extrapolative_pes": """enhanced_understanding attention_bias/super_baseline attention_bias/elaborate
        extended_rope/scaling extended_rope/truncation extended_rope/rearrangement other""",
    "context_processing": """selection aggregation/fusion_in_decoder aggregation/map_reduce_refine
        aggregation/parallel_windows compression/soft compression/hard""",
    "misc": """objectives mixture_of_experts parallelism long_context_training weight_compression/quantization
        weight_compression/pruning weight_compression/factorization weight_compression/partitioning
        weight_compression/distillation""",
}


def test_the_47_leaves_stand_in_the_surveys_order():
    expected = [f"{family}/{leaf}" for family, leaves in LEAVES.items() for leaf in leaves.split()]
    assert len(expected) == 47
    assert [leaf.path for leaf in load_taxonomy().leaves] == expected


def test_133_papers_of_the_survey_and_each_is_whole():
    papers = [paper for leaf in load_taxonomy().leaves for paper in leaf.papers]
    assert sum(not paper.added for paper in papers) == 133
    for paper in papers:
        assert paper.title, paper
        assert paper.first_author, paper
        assert paper.address.startswith("http"), paper
        assert 2000 <= paper.year <= 2026, paper


@pytest.mark.parametrize(
    ("arxiv", "leaf"),
    [
        ("2404.07143", "long_term_memory/internal_cache/compressive_memory"),
        ("1911.05507", "long_term_memory/internal_cache/compressive_memory"),
        ("1901.02860", "long_term_memory/internal_cache/segment_recurrence"),
        ("2401.04658", "efficient_attention/io_aware/lightning"),
    ],
)
def test_the_papers_that_the_kernels_follow_have_their_place(arxiv, leaf):
    places = [node.path for node in load_taxonomy().leaves for paper in node.papers if paper.arxiv == arxiv]
    assert places == [leaf]


def test_every_node_says_what_it_is_and_what_it_changes():
    for node in load_taxonomy().walk():
        assert node.title
        assert 40 < len(node.summary) < 500, node.path
        assert node.module in {*SLOTS, "decoder"}


def test_evaluation_and_toolkits_are_sections_of_their_own():
    taxonomy = load_taxonomy()
    assert {r.kind for r in taxonomy.evaluation.resources} == {"datasets", "metrics", "baselines"}
    assert {r.kind for r in taxonomy.toolkits.resources} == {"libraries", "systems", "compilers"}


def test_unknown_paths_and_inner_nodes():
    taxonomy = load_taxonomy()
    with pytest.raises(UnknownNameError, match="did you mean 'efficient_attention/sparse/graph'"):
        taxonomy.node("efficient_attention/sparse/graf")
    with pytest.raises(LongAtlasError, match=r"inner node.*misc/weight_compression/pruning"):
        taxonomy.leaf("misc/weight_compression")
    assert taxonomy.leaf("preliminaries").path == "preliminaries"


MISTAKES = [
    ("version: 1", "version: 2", "version is 2; this longatlas reads version 1"),
    ("version: 1", "version: one", "version is 'one'; expected int"),
    ('  arxiv: "2311.12351"', "  arxiv: 2311.12351", "survey.arxiv is 2311.12351; expected str"),
    ("  misc:\n", "  msic:\n", "families lacks the key 'misc'; expected it here instead of 'msic'"),
    ("    module: attention\n", "    module: atention\n", "did you mean 'attention'"),
    ("    module: attention\n", "", "efficient_attention lacks the key 'module'"),
    ("    summary: Makes attention", "    sumary: Makes attention", "lacks the key 'summary'"),
    ("      local:\n", "      Lo/cal:\n", "has the id 'Lo/cal'"),
    ("              - name: LongLoRA\n", "              - nam: LongLoRA\n", "papers[0] lacks the key 'name'"),
    ("              - name: LongLoRA\n", "              - name: Mega\n", "has the name 'Mega' twice"),
    ("                first_author: Yukang Chen\n", "", "papers[0] lacks the key 'first_author'"),
    ("first_author: Yukang Chen\n", "first_author: Yukang Chen\n                authr: me\n", "unknown key of"),
    ('arxiv: "2309.12307"', 'arxiv: "23-09"', "arxiv is '23-09'; expected an id such as"),
    ('                arxiv: "2309.12307"\n', "", "('LongLoRA') has neither 'arxiv' nor 'url'"),
    ('arxiv: "2309.12307"', "url: ftp://x", "url is 'ftp://x'; expected an address"),
    ("toolkits:\n", "toolkits: 3\nold:\n", "toolkits must be a mapping"),
    ("  datasets:\n", "  datasets: none\n  data:\n", "evaluation.datasets must be a list"),
    ("survey:\n", "survey: [\n", "not valid YAML"),
]


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES)
def test_a_mistake_is_reported_with_file_line_and_rule(tmp_path, old, new, words):
    text = taxonomy_path().read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(LongAtlasError) as error:
        load_taxonomy(file)
    found = str(error.value)
    assert found.startswith("mine.yaml, line ")
    assert words in found


def test_the_line_is_that_of_the_mistake(tmp_path):
    lines = taxonomy_path().read_text(encoding="utf-8").splitlines()
    place = next(i for i, line in enumerate(lines) if line.strip() == "year: 2023" and i > 30)
    lines[place] = lines[place].replace("2023", "soon")
    file = tmp_path / "mine.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(LongAtlasError, match=f"mine.yaml, line {place + 1}: .*year is 'soon'; expected int"):
        load_taxonomy(file)


def test_a_missing_taxonomy_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGATLAS_TAXONOMY", str(tmp_path / "none.yaml"))
    with pytest.raises(LongAtlasError, match=r"cannot read .*none.yaml"):
        load_taxonomy()
