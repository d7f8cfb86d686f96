-- The account that the nodes read with.
CREATE USER kingbus IDENTIFIED BY 'replication';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO kingbus;
