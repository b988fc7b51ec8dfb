CREATE EXTENSION spock_recovery;
