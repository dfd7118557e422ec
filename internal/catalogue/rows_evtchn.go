package catalogue

var eventRows = []Row{
	{ID: "E-01", Attack: "sends events as fast as it can", Source: "XSA-332, CVE-2020-27673"},
	{ID: "E-02", Attack: "has the channel closed while its event is being handled", Source: "XSA-331, CVE-2020-27675"},
	{ID: "E-03", Attack: "has the channel closed by someone who holds a lock that the running handler wants",
		Source: "XSA-441, Linux 179fbd5a"},
	{ID: "E-04", Attack: "sends on a port whose number is given to another channel while the event is under way", Source: "Xen 78e24c26"},
	{ID: "E-05", Attack: "sends its first event before anybody listens"},
	{ID: "E-06", Attack: "sends events that mean nothing", Source: "vchan's specification in TLA+"},
	{ID: "E-07", Attack: "sends many events of which one arrives"},
	{ID: "E-08", Attack: "sends while the channel is masked"},
	{ID: "E-09", Attack: "offers a port that is not there, is another domain's, or comes when there are no more ports", Source: "XSA-496"},
	{ID: "E-10", Attack: "sends while the table of channels is being changed on another processor", Source: "XSA-340, 358, 359"},
	{ID: "E-11", Attack: "resets all its channels while they are in use", Source: "XSA-343"},
}
