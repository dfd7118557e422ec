package catalogue

var grantRows = []Row{
	{ID: "G-01", Attack: "says that it is done with a page, and keeps it mapped", Source: "Mirage MSA02"},
	{ID: "G-02", Attack: "maps the page between the look at its grant's flags and the end of the grant", Source: "XSA-396"},
	{ID: "G-03", Attack: "holds on to a page whose end is put off, until the memory is freed here", Source: "CVE-2022-23041"},
	{ID: "G-04", Attack: "uses a reference again that an old message named and that now stands for other memory"},
	{ID: "G-05", Attack: "names references that cannot be its own: 0, a reserved one, one beyond every table", Source: "Xen grant_table.h"},
	{ID: "G-06", Attack: "has mapping answer a positive status, which is no success", Source: "XSA-316"},
	{ID: "G-07", Attack: "has Xen return without having filled in the statuses", Source: "XSA-318"},
	{ID: "G-08", Attack: "keeps the granted page paged out: GNTST_eagain for ever"},
	{ID: "G-09", Attack: "reads the rest of a page that was shared for the sake of a few bytes", Source: "XSA-403",
		NoPatch: "pages are shared whole, and come fresh from the platform: no code of ours clears them"},
	{ID: "G-10", Attack: "grants a page for reading only that is to be written", Source: "mirage-block-xen 0.1.3"},
	{ID: "G-11", Attack: "nothing: our own code uses a page after it was unmapped"},
	{ID: "G-12", Attack: "dies while this domain has its pages mapped", Source: "XSA-325"},
	{ID: "G-13", Attack: "has Xen clear the in-use bits of a grant that is still in use, or report one that is not",
		Source: "XSA-218, 230, 236"},
	{ID: "G-14", Attack: "has the version of the grant table changed while grants are in use", Source: "XSA-255, 384, 486, 501"},
	{ID: "G-15", Attack: "uses transitive or sub-page grants, and changes them while they are pinned", Source: "XSA-226, 500"},
	{ID: "G-16", Attack: "nothing: memory ends while the grant table grows"},
	{ID: "G-17", Attack: "has our side ask for ever more grants"},
}
