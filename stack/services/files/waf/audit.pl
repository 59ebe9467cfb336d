# ModSecurity's audit records (JSON, one a line) -> one JSON line each, with what an operator needs to judge a match and
# nothing of what was sent: no query, no header, no body, and no text that matched, which may be a password or a cookie.
# It takes what it knows out of the record and drops the rest. perl-base has no JSON module: what follows reads one.
use strict;
use warnings;

$| = 1;
binmode STDIN;
binmode STDOUT;

sub value {    # at pos() of $_
    /\G\s*/gc;
    if (/\G\{/gc) {
        my %found;
        until (/\G\s*\}/gc) {
            /\G\s*,?\s*/gc;
            my $key = value();
            /\G\s*:/gc or die "no colon\n";
            $found{$key} = value();
        }
        return \%found;
    }
    if (/\G\[/gc) {
        my @found;
        until (/\G\s*\]/gc) {
            /\G\s*,?\s*/gc;
            push @found, value();
        }
        return \@found;
    }
    if (/\G"((?:[^"\\]|\\.)*)"/gcs) { return $1 }    # as it is written: escaped, and so it is written again
    if (/\G([-+.0-9eE]+|true|false|null)/gc) { return $1 }
    die "no value\n";
}

sub text { my ($value) = @_; return '"' . (defined $value && !ref $value ? $value : "") . '"' }

sub number { my ($value) = @_; return defined $value && $value =~ /\A[0-9]{1,6}\z/ ? $value : 0 }

# ARGS:json.messages.array_0.content is a name of the sender's own making: letters, digits and what names have, no more.
sub target {
    my ($match) = @_;
    return "" unless defined $match && $match =~ /against variable [`']([A-Z_]+(?::[\w.\[\]-]{1,80})?)/;
    return $1;
}

while (<STDIN>) {
    next unless /\S/;
    my $line = eval {
        my $record = value()->{transaction};
        my $request = $record->{request};
        my ($path) = $request->{uri} =~ /\A([^?]{0,200})/;
        my @rules = map {
            my $details = $_->{details};
            "{\"id\":" . number($details->{ruleId}) . ",\"message\":" . text($_->{message}) .
            ",\"target\":" . text(target($details->{match})) . ",\"severity\":" . number($details->{severity}) . "}"
        } @{ $record->{messages} // [] };
        "{\"log\":\"waf\",\"time\":" . text($record->{time_stamp}) . ",\"id\":" . text($record->{unique_id}) .
        ",\"client\":" . text($record->{client_ip}) . ",\"method\":" . text($request->{method}) .
        ",\"path\":" . text($path) . ",\"status\":" . number($record->{response}{http_code}) .
        ",\"engine\":" . text($record->{producer}{secrules_engine}) . ",\"rules\":[" . join(",", @rules) . "]}\n"
    };
    print defined $line ? $line : "{\"log\":\"waf\",\"error\":\"a record could not be read\"}\n";
}
