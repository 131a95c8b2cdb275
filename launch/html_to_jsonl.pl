#!/usr/bin/perl
# Prose out of HTML pages: perl html_to_jsonl.pl OUT_DIR PAGE...
# Writes train.jsonl and valid.jsonl ({"text"} a page, every fiftieth held out) and train.txt (the
# training pages as they are, for a tokenizer). A paragraph that stood before, but for case, digits
# and punctuation, is left out, so that nothing is held out that is trained on. Needs nothing beyond
# perl-base; the same pages make the same bytes.
use strict;
use warnings;

my $directory = shift @ARGV or die "usage: html_to_jsonl.pl OUT_DIR PAGE...\n";
my %entity = (amp => '&', lt => '<', gt => '>', quot => '"', apos => "'", nbsp => ' ', para => '',
    mdash => "\x{2014}", ndash => "\x{2013}", hellip => "\x{2026}", copy => "\x{a9}");
my %seen;

# Sentences in English: letters for the most part, up to a mark that ends one.
sub is_prose {
    my ($line) = @_;
    return 0 if length($line) < 40 || $line !~ /^["'(]?[A-Z]/ || $line !~ /[.!?:]["')]*$/;
    return 0 unless $line =~ /[a-z]+ [a-z]+ [a-z]+/;
    my $plain = $line =~ tr/a-zA-Z ,.'"//;
    return $plain >= 0.93 * length $line;
}

# The paragraphs of a page, one a line: no menus, listings, tables, headings.
sub prose {
    my ($html) = @_;
    $html =~ s/.*?<body[^>]*>//s;
    $html =~ s/<!--.*?-->//gs;
    $html =~ s/<(script|style|table|pre|h[1-6])\b[^>]*>.*?<\/\1>//gs;
    $html =~ s/<(ul|dl) class="(?:docnav|toc)[^"]*">.*?<\/\1>//gs;
    $html =~ s/<div class="(?:navheader|navfooter|toc|sphinxsidebar)".*?<\/div>//gs;
    $html =~ s/\s+/ /g;
    $html =~ s/<\/?(?:p|div|li|ul|ol|dl|dt|dd|br|hr|blockquote|section)\b[^>]*>/\n/g;
    $html =~ s/<[^>]*>//g;
    $html =~ s/&#x([0-9a-fA-F]{1,6});/chr(hex $1)/ge;
    $html =~ s/&#([0-9]{1,7});/chr($1)/ge;
    $html =~ s/&(\w+);/exists $entity{$1} ? $entity{$1} : ' '/ge;
    my @lines;
    for my $line (split /\n/, $html) {
        $line =~ tr/\x{2018}\x{2019}\x{201c}\x{201d}/''""/;
        $line =~ s/[\s\x{a0}\x{200b}]+/ /g;
        $line =~ s/^ | $//g;
        next unless is_prose($line);
        (my $letters = lc $line) =~ tr/a-z//cd;
        push @lines, $line unless $seen{$letters}++;
    }
    return join("\n", @lines);
}

sub json_string {
    my ($text) = @_;
    $text =~ s/(["\\])/\\$1/g;
    $text =~ s/\n/\\n/g;
    $text =~ s/([\x00-\x1f])/sprintf '\\u%04x', ord $1/ge;
    return "\"$text\"";
}

my %out;
for my $name ('train.jsonl', 'valid.jsonl', 'train.txt') {
    open $out{$name}, '>:encoding(UTF-8)', "$directory/$name" or die "$directory/$name: $!\n";
}
my ($pages, $bytes) = (0, 0);
for my $path (@ARGV) {
    open my $file, '<:encoding(UTF-8)', $path or die "$path: $!\n";
    my $text = prose(do { local $/; <$file> });
    next if length($text) < 200;
    my $held_out = ++$pages % 50 == 0;
    print { $out{$held_out ? 'valid.jsonl' : 'train.jsonl'} } '{"text": ', json_string($text), "}\n";
    print { $out{'train.txt'} } "$text\n" unless $held_out;
    $bytes += length $text;
}
for my $name (keys %out) { close $out{$name} or die "$directory/$name: $!\n"; }
print "$pages pages, $bytes characters of prose\n";
