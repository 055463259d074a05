import random,sys
which,seed=sys.argv[1],int(sys.argv[2]); r=random.Random(seed)
if which=='s':
    import sqlite3; db=sqlite3.connect('v.db',isolation_level=None); db.execute('pragma foreign_keys=%s'%r.choice(['on','off'])); db.execute('pragma recursive_triggers=%s'%r.choice(['on','off']))
    ex=lambda q: db.execute(q).fetchall()
else:
    import psycopg2; c=psycopg2.connect('postgres://postgres@127.0.0.1:55432/atk_v'); c.autocommit=True; cur=c.cursor()
    def ex(q): cur.execute(q)
R=lambda: r.randrange(1,9)
N=lambda: r.choice(['NULL',str(R()),str(R())])
now="'2026-01-01T00:00:00.000000Z'"
O=lambda: r.choice(['','','OR IGNORE ','OR FAIL ','OR REPLACE ','OR ROLLBACK ']) if which=='s' else ''
errs={};ok={}
def one():
    k=r.randrange(26)
    return k,[lambda:f"insert {O()}into orgs(id,name) values({R()},'x'),({R()},'y')",
    lambda:f"delete from orgs where id>{R()}", lambda:f"update {O()}orgs set id=id+{r.choice([-1,1,10,-10,3])} where id>{R()}",
    lambda:f"insert {O()}into teams(id,org_id,boss_id,updated_at,version) values({R()},{N()},{N()},{now},1)",
    lambda:f"delete from teams where id={R()}",lambda:f"update {O()}teams set id={R()+20} where id={R()}", lambda:f"update teams set id=id-20 where id>20",
    lambda:f"update {O()}teams set boss_id={N()},org_id={N()} where id={R()}",
    lambda:f"insert {O()}into members(a,b,team_id) values({R()},'{r.choice('xyz')}',{R()})", lambda:f"insert into members(a,b) values({R()},'d')",
    lambda:f"update {O()}members set a=a+1,b='{r.choice('xyz')}' where a={R()}", lambda:f"delete from members where a={R()}",
    lambda:f"insert {O()}into notes(id,ma,mb,text) values({R()},{R()},'{r.choice('xyz')}','{r.choice('pq')}')",
    lambda:f"update {O()}notes set text='{r.choice('pq')}', id=id+{r.choice([0,0,1])} where ma={R()}",
    lambda:f"insert {O()}into logs(id,org_id) values({R()},{R()})", lambda:f"update {O()}logs set id=id*2 where id={R()}",
    lambda:f"insert {O()}into dirs(id,parent_id,name,version) values({R()},{N()},'n',1)", lambda:f"update dirs set deleted_at={now}, deletion_id='01a217b3-021d-7204-911a-4bfd484dbb{R()}{R()}' where id={R()} and deleted_at is null",
    lambda:f"update dirs set deleted_at=null where id={R()}", lambda:f"delete from dirs where id={R()}", lambda:f"update {O()}dirs set parent_id={N()}, id=id+{r.choice([0,0,0,1])} where id={R()}",
    lambda:f"insert {O()}into files(id,dir_id,name,updated_at) values({R()},{N()},'{r.choice('abc')}',{now})", lambda:f"update {O()}files set name='{r.choice('abc')}', deleted_at={r.choice(['null',now,'deleted_at'])} where id={R()}",
    lambda:f"delete from files where id={R()}", lambda:f"insert into orgs(id,name) values({R()},'u') on conflict(id) do update set name='{R()}', id=orgs.id+{r.choice([0,0,30])}",
    lambda:r.choice(["begin","commit","rollback","savepoint s","rollback to s"]) if which=='s' else r.choice(["truncate notes","truncate files","truncate orgs cascade","truncate teams,members cascade", f"merge into orgs o using (values({R()},'m'),({R()},'k')) v(i,n) on o.id=v.i when matched and v.i>4 then delete when matched then update set name=v.n||o.id when not matched then insert values(v.i,v.n)",f"with d as (delete from orgs where id={R()} returning id,name) insert into orgs select id+5,name from d"]) ][k]()
for _ in range(1500):
    k,q=one()
    try: ex(q); ok[k]=ok.get(k,0)+1
    except Exception as e: errs.setdefault((k,str(e).split('\n')[0][:90]),q)
if which=='s':
    try: ex('commit')
    except Exception: pass
print(sorted(ok.items()))
for e in sorted(errs.items(),key=str)[:0 if len(sys.argv)<4 else 60]: print(e)
